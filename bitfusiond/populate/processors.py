"""How many processors this container may keep busy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Two hierarchies of cgroups are in use; a container finds its own group at the root of either.
_QUOTA_V2 = "cpu.max"  # "QUOTA PERIOD" in microseconds, or "max PERIOD"
_QUOTA_V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


def allowed(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """At least 1: those that the process may run on, and no more than the container's CPU limit pays for.

    ``populate`` carries the limit of the pod's largest container. Beyond it processes would only be throttled.
    """
    return max(1, min(len(os.sched_getaffinity(0)), _limit(cgroups)))


def _limit(cgroups: Path) -> int:
    try:
        if (cgroups / _QUOTA_V2).exists():
            quota, period = (cgroups / _QUOTA_V2).read_text().split()
        else:
            quota, period = ((cgroups / name).read_text().strip() for name in _QUOTA_V1)
        return int(quota) // int(period) if quota not in {"max", "-1"} else sys.maxsize
    except (OSError, ValueError):
        return sys.maxsize  # no limit that could be read
