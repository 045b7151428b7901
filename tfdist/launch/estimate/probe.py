"""What each rank of `tfdist estimate --measure` runs: times all-reduces.

Rank 0 prints one line of JSON, marked so that it is found among what else a
launcher prints.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

MARK = "tfdist-measured: "
# Bytes. What fits into socket buffers, or a token bucket's burst, looks faster than
# the link is; so between latency (the first) and bandwidth (the others) is a gap.
SIZES = (4_096, 1_048_576, 4_194_304, 16_777_216, 67_108_864)
WARM_UPS = 2
REPEATS = 7
# No larger size is measured once one all-reduce takes this long: slow links need
# seconds for it.
LONGEST_SECONDS = 0.5


def main() -> int:
    """Times every size and returns the exit code."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    hvd.init()
    samples = []
    for size in SIZES:
        seconds = _time(hvd, tf, size)
        samples.append((size, seconds))
        # Averaged over the ranks, so all of them stop at the same size.
        if seconds > LONGEST_SECONDS:
            break
    if hvd.rank() == 0:
        print(MARK + json.dumps({"ranks": hvd.size(), "samples": samples}), flush=True)
    hvd.shutdown()
    return 0


def _time(hvd: Any, tf: Any, size: int) -> float:
    """Returns the median time of an all-reduce, averaged over the ranks."""
    value = tf.ones([size // 4], tf.float32)
    taken = []
    for _ in range(WARM_UPS + REPEATS):
        started = time.perf_counter()
        hvd.allreduce(value, op=hvd.Sum, name=f"tfdist.measure.{size}").numpy()
        taken.append(time.perf_counter() - started)
    median = tf.constant(statistics.median(taken[WARM_UPS:]), tf.float64)
    return float(hvd.allreduce(median, op=hvd.Average, name=f"tfdist.median.{size}"))


if __name__ == "__main__":
    sys.exit(main())
