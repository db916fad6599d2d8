"""`python -m dwindle` is the command `dwindle`."""

import sys

from dwindle.cli import main

if __name__ == "__main__":
    sys.exit(main())
