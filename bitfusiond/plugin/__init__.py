"""The device plugin: advertises GPU shares to this node's kubelet."""

from __future__ import annotations

# First, and so before anything here imports grpclib: see there.
from bitfusiond.plugin import grpc as grpc
