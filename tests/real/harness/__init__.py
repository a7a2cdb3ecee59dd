"""What the tests of real things share: programs of Kubernetes, an API server, webhooks, a node, a cluster, load."""
