"""Why a pod does not run on its GPUs: recorded objects in, findings out.

``pods.diagnose`` follows a pod on its way: asked for, injected, placed, filled, running. ``makers.diagnose`` is for a
Deployment, a Job or whatever else makes pods, and has none to show.
"""
