"""The container images: built by ``python -m tests.real.images``, held to what is promised of them."""
