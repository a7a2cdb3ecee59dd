"""What the 0.4 integration left in a cluster, taken over or removed."""
