"""The pool of GPU servers: its inventory, what the cluster is told of it, and what a pod gets of it."""
