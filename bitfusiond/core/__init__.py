"""What is decided: pure functions and values. Standard library only; no clock, no network, no files, no tasks."""
