"""horovodrun, without the seconds in which it asks what Horovod was built with.

Before it starts anything, horovodrun 0.28.1 imports TensorFlow in a child of its own,
and through it Horovod's native library, to ask whether Gloo (or MPI) is built: nine
tenths of the time from the command to the first rank, at every restart of a job. The
library's own file holds the answer. Where it does not say yes, horovodrun asks as ever.

    python -m tfdist.launch.run.horovodrun -np 2 --gloo python train.py
"""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

from tfdist.launch.here import horovod_library

# What only a library with this controller holds: Gloo's functions, as C++ mangles
# their names, and the library that MPI's programs are linked with. The keys are
# the questions in horovod.runner.launch.
_MARKS = {"gloo_built": b"N4gloo", "mpi_built": b"libmpi"}


def questions_answered(library: Path) -> frozenset[str]:
    """Returns the questions to which Horovod's native library says yes."""
    with (
        library.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return frozenset(
            question for question, mark in _MARKS.items() if content.find(mark) >= 0
        )


def main() -> None:
    """Runs horovodrun with this process's arguments."""
    from horovod.runner import launch

    library = horovod_library()
    for question in questions_answered(library) if library else ():
        setattr(launch, question, _yes)
    sys.argv[0] = "horovodrun"
    launch.run_commandline()


def _yes(verbose: bool = False) -> bool:
    return True


if __name__ == "__main__":
    main()
