"""Image lookup (``--image-lookup``): ENTRYPOINT, CMD and LD_LIBRARY_PATH of images, from their registries."""
