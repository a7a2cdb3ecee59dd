"""The clients that there are, their packages, and the servers they reach."""
