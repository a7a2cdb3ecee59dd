"""Who has how many GPU shares, out of a cluster's objects: in the pool, on nodes, by quota."""
