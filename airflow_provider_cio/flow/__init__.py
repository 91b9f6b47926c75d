"""The picture of what flowed and what is missing: a page in Airflow's UI, and the ways to it.

The page is static. The browser asks Airflow's REST API as the person who looks at it.
"""
