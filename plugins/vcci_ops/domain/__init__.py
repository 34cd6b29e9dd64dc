"""Pure logic: results, thresholds, verdicts. Imports neither Airflow nor any client library."""
