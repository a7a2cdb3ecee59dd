"""For the operator of a cluster: deploy, verify, uninstall, tokens.

Runs on the operator's machine, from a checkout, through ``kubectl`` and its current context. The daemons know nothing
of it.
"""
