"""Image registries: the little of the OCI distribution API that it takes to read one image's configuration."""
