"""A stand-in VCCI platform on loopback: real servers where a package gives them, play-acted APIs elsewhere.

``python -m sandbox up | down | status | break FAULT | heal [FAULT] | reset``; docs/sandbox.md tells more.
"""
