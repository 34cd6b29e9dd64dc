"""Thin Airflow shells around the domain and the hooks, one system to a module."""
