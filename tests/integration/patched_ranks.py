"""Prints how often Horovod's threads woke up in a second without work.

And sees to it that a sum in place leaves alone what others read:
`horovodrun -np 2 python patched_ranks.py [--process-sets]`.
"""

import sys
import threading
import time
from pathlib import Path

import horovod.tensorflow as hvd
import tensorflow as tf

PREFIX = "voluntary_ctxt_switches:"


def switches() -> int:
    """Return how often the other threads of this process have begun to wait."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != threading.get_native_id():
            lines = (task / "status").read_text().splitlines()
            total += sum(int(x[len(PREFIX) :]) for x in lines if x.startswith(PREFIX))
    return total


@tf.function
def sums(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return two sums, and what one of them was made of, read after it."""
    alone, shared = values + 1.0, values + 2.0
    first = hvd.allreduce(alone, op=hvd.Sum, name="alone")
    second = hvd.allreduce(shared, op=hvd.Sum, name="shared")
    with tf.control_dependencies([second]):
        return first, second, shared * 1.0


hvd.init(process_sets=[hvd.ProcessSet([0])] if "--process-sets" in sys.argv else None)
hvd.allreduce(tf.ones(()), op=hvd.Sum, name="before")
before = switches()
time.sleep(1)
woken = switches() - before
assert hvd.allreduce(tf.ones(()), op=hvd.Sum, name="after").numpy() == 2
for _ in range(3):
    results = [result.numpy() for result in sums(tf.fill([100], float(hvd.rank())))]
    wanted = [3.0, 5.0, 2.0 + hvd.rank()]
    assert all((r == w).all() for r, w in zip(results, wanted, strict=True)), results
print(f"woken {woken} times")
