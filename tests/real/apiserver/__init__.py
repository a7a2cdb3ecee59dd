"""Tests against a real API server (``KUBEBUILDER_ASSETS``). Skipped, with how to enable them, where there is none."""
