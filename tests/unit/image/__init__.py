"""image/images, with stand-in engines."""
