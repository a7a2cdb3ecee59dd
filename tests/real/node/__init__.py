"""The plugin on a real node: a kubelet, pods that run. Skipped where there is none; conftest.py says how to enable."""
