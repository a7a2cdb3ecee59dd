"""The device plugin: advertises GPU shares to this node's kubelet."""
