"""Images as their registries know them: names, pull secrets, manifests, and whom to ask for them."""
