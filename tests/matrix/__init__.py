"""`python -m tests.matrix`: test the wheel in each supported version of Airflow and of Python."""
