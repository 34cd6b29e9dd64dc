"""faults."""
FAULTS = ()
PROCESSES = ()
