"""``just distros``: client packages become trees that ``populate`` copies, with a catalogue of them.

``run`` is the way through. ``package_trees`` unpacks packages, ``other_trees`` takes directories and wheels, both make
their trees by ``trees``; ``catalogue`` says what came out.
"""
