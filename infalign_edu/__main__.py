"""`python -m infalign_edu`."""

import sys

from infalign_edu.cli import main

if __name__ == "__main__":
    sys.exit(main())
