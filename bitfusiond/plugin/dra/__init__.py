"""The node's part of Dynamic Resource Allocation: what a claim was given, told to the containers that name it."""
