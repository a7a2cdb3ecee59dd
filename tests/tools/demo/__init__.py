"""``just demo``: the main job end to end on one machine, with no cluster, no root and no container engine.

The real executable runs in each of its roles, as a process of its own. What a cluster would do around it is played
here: the API server that asks the webhook, the kubelet that the plugin registers with, the container runtime that
mounts volumes and starts commands, and the Bitfusion client that a pod's program runs under.
"""
