"""The pool in the cluster: published, probed, asked for by templates, and who has how much of it."""
