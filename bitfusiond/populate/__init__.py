"""``--role init``: one client distro and the token files, copied into a pod's volumes before its containers start.

What is missing is found before the first byte is copied. Killed at any point and run again, it ends right.
"""

from bitfusiond.populate.service import run

__all__ = ["run"]
