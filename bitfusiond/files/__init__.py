"""The operator's files: read, checked, followed."""
