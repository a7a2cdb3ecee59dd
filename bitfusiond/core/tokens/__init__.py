"""Whose a token Secret is, and what is to be done with it."""
