"""``kubectl bitfusion``: what a user of a cluster, or its operator without a checkout, wants to know.

Here things are read and printed; what they mean is decided in ``core.usage`` and ``core.diagnosis``.
"""
