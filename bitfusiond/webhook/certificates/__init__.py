"""The serving certificate: from files that somebody else keeps, or of our own, with a CA that all replicas share."""
