"""`python -m otcxr_sk`: the command line."""

import sys

from otcxr_sk.cli import main

if __name__ == "__main__":
    sys.exit(main())
