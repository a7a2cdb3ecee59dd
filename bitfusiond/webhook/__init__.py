"""``--role webhook``: the admission webhook over HTTPS."""
