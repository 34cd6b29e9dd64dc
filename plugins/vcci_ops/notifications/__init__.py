"""What people are told, and when, outside of reports."""
