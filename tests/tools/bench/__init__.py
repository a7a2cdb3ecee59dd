"""Measurements, by ``just bench``: each against a baseline in the same run, as machines are noisy. No tests."""
