"""Programs that stand in for the real ones in a container of the demo. Copied there, never imported."""
