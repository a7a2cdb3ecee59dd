"""``just verify``: each object, its state, and for what is wrong the reason and the next command.

The modules beside this one each look at one part of an installation: what is read, then rows from it, by functions that
need no cluster.
"""
