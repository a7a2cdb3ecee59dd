"""Token Secrets in the namespaces that need them."""
