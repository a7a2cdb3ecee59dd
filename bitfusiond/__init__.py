"""bitfusiond: Kubernetes pods on the GPUs of a Bitfusion pool."""

__version__ = "0.5.0"
