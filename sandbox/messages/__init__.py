"""What the platform tells people: stand-ins for Slack, Statuspage and a mail server, and one inbox page of it all."""
