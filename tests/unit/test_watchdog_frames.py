"""Looking at the main thread's frame never stops the interpreter."""

import subprocess
import sys

import pytest

# Threads come and go, and every look may collect garbage whose finalizer lets them run.
PROGRAM = """
import gc, os, sys, threading, time
from tfdist.coordination import watchdog

class Garbage:
    def __init__(self):
        self.own = self
    def __del__(self):
        time.sleep(0)

def start_threads():
    while True:
        one = threading.Thread(target=Garbage)
        one.start()
        one.join()

gc.disable()
for _ in range(2):
    threading.Thread(target=start_threads, daemon=True).start()
gc.set_threshold(1)
gc.enable()
look = {"ours": watchdog._frame_of, "python": lambda t: sys._current_frames().get(t)}
end = time.monotonic() + 3.0
while time.monotonic() < end:
    assert look[sys.argv[1]](threading.main_thread().ident) is not None
assert gc.isenabled()
print("alive", flush=True)
os._exit(0)
"""


def ends(look: str, timeout: float) -> bool:
    command = [sys.executable, "-c", PROGRAM, look]
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
    # It takes two threads at a certain moment, which a busy machine may never have.
    assert not all(ends("python", 15.0) for _ in range(5))
