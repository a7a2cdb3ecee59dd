"""One HTTP server for webhook and plugin."""
