"""The self-test's process with a broken all-reduce, for a negative control.

What it breaks is Horovod's own function, below all of tfdist: sums of floating-point
numbers come out a thousandth too large, on all ranks alike.
"""

import sys

import horovod.tensorflow as hvd

right = hvd.allreduce


def wrong(tensor, **options):
    total = right(tensor, **options)
    return total * 1.001 if total.dtype.is_floating else total


hvd.allreduce = wrong

from tfdist.launch.selftest import program  # noqa: E402

sys.exit(program.main())
