"""``python -m bitfusiond`` is the same as the ``bitfusiond`` executable."""

import sys

from bitfusiond.cli import main

if __name__ == "__main__":
    sys.exit(main())
