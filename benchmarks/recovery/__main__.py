"""`python -m benchmarks.recovery`, from the top of the repository."""

import sys

from benchmarks.recovery.command import main

if __name__ == "__main__":
    sys.exit(main())
