"""`python -m workshop_lib VERB`: the `workshop` command, for torchrun."""

import sys

from workshop_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())
