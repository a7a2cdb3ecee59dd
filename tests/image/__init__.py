"""The container images: built by ``python -m tests.image``, held to what is promised of them."""
