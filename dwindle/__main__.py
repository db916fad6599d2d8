import sys

from dwindle.cli import main

if __name__ == "__main__":
    sys.exit(main())
