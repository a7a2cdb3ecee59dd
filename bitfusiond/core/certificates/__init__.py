"""Which step of a certificate rotation is next."""
