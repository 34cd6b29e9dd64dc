"""What waits outside of workers: triggers, run by the triggerer."""
