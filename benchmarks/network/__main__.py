"""`python -m benchmarks.network`, from the top of the repository."""

import sys

from benchmarks.network.command import main

if __name__ == "__main__":
    sys.exit(main())
