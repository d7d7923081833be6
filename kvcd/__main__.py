"""`python -m kvcd`: the same as the `kvcd` command."""

import sys

from kvcd.cli import main

if __name__ == "__main__":
    sys.exit(main())
