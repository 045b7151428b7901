"""Each rank: time an all-reduce of as many float32 numbers as the argument says."""

import statistics
import sys
import time

import horovod.tensorflow as hvd
import tensorflow as tf

WARM_UPS, REPEATS = 1, 5

hvd.init()
numbers = tf.ones([int(sys.argv[1])])
taken = []
for _ in range(WARM_UPS + REPEATS):
    began = time.perf_counter()
    hvd.allreduce(numbers, op=hvd.Sum, name="numbers").numpy()
    taken.append(time.perf_counter() - began)
if hvd.rank() == 0:
    print(f"median seconds: {statistics.median(taken[WARM_UPS:]):.6f}", flush=True)
hvd.shutdown()
