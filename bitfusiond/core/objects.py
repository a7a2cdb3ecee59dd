"""Objects of Kubernetes as raw JSON, named by their kind: no library's model has to know a field for it to survive."""

from __future__ import annotations

from bitfusiond.core.fields import Json

Object = Json  # of any kind, as the API server writes it

ConfigMap = Object
EndpointSlice = Object
Event = Object
Namespace = Object
Node = Object
Pod = Object
ReplicaSet = Object
ResourceClaim = Object
ResourceQuota = Object
ResourceSlice = Object
Secret = Object
Service = Object
WebhookConfiguration = Object  # Mutating or Validating
Workload = Object  # a Deployment or a DaemonSet

# Parts of one
Container = Json
EnvVar = Json
Webhook = Json  # of a WebhookConfiguration
