"""Prints how often Horovod's threads woke up in a second without work.

horovodrun -np 2 python idle_ranks.py [--process-sets]
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


hvd.init(process_sets=[hvd.ProcessSet([0])] if "--process-sets" in sys.argv else None)
hvd.allreduce(tf.ones(()), op=hvd.Sum, name="before")
before = switches()
time.sleep(1)
woken = switches() - before
assert hvd.allreduce(tf.ones(()), op=hvd.Sum, name="after").numpy() == 2
print(f"woken {woken} times")
