"""The only code that talks to an outside system, one module a system."""
