"""`python -m tests.matrix [3.0 3.1 3.2 3.3 floors]`: the wheel in each version of Airflow that it says it is for."""
