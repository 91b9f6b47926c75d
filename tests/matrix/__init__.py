"""`python -m tests.matrix`: the wheel in each version of Airflow and of Python that it says it is for."""
