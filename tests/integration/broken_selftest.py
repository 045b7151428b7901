"""The self-test's process with a broken all-reduce, for a negative control.

What it breaks is Horovod's own function, below all of tfdist: sums come out a
thousandth too large, on all ranks alike.
"""

import sys

import horovod.tensorflow as hvd

right = hvd.allreduce


def wrong(*arguments, **options):
    return right(*arguments, **options) * 1.001


hvd.allreduce = wrong

from tfdist.launch.selftest import program  # noqa: E402

sys.exit(program.main())
