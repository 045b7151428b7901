"""`python -m benchmarks.callbacks`, from the top of the repository."""

import sys

from benchmarks.callbacks.command import main

if __name__ == "__main__":
    sys.exit(main())
