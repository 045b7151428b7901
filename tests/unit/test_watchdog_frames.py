"""Looking at the main thread's frame never stops the interpreter."""

import subprocess
import sys

import pytest

SECONDS = 2.0
# Threads come and go, and every look collects garbage whose finalizers wait.
PROGRAM = """
import gc, sys, threading, time
from tfdist.coordination import watchdog

class Garbage:
    def __init__(self):
        self.own = self
    def __del__(self):
        time.sleep(1e-4)

def deep(levels):
    if levels:
        deep(levels - 1)
    while not done.is_set():
        time.sleep(1e-3)

def start_threads():
    while not done.is_set():
        one = threading.Thread(target=Garbage)
        one.start()
        one.join()

done = threading.Event()
gc.set_threshold(5)
for _ in range(4):
    threading.Thread(target=deep, args=(50,), daemon=True).start()
    threading.Thread(target=start_threads, daemon=True).start()
look = {"ours": watchdog._frame_of, "python": lambda t: sys._current_frames().get(t)}
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    assert look[sys.argv[1]](threading.main_thread().ident) is not None
done.set()
assert gc.isenabled()
print("alive")
"""


def ends(look: str, timeout: float) -> bool:
    command = [sys.executable, "-c", PROGRAM, look, str(SECONDS)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return False
    assert done.stdout == "alive\n", done.stderr
    return True


def test_it_goes_on():
    assert ends("ours", 60.0)


@pytest.mark.skipif(
    sys.version_info >= (3, 11, 9), reason="Python 3.11.9 repaired cpython#106883"
)
def test_control_python_itself_stops():
    assert not ends("python", SECONDS + 8.0)
