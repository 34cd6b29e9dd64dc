"""The stand-in VCCI API: health, metrics under synthetic traffic, and a TLS endpoint with its own CA."""
