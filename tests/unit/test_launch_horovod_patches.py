"""What is changed in Horovod's sources, and what wakes its background thread."""

import ctypes
import shutil
import subprocess
import threading
import time

import pytest

from tfdist.launch.errors import CommandError
from tfdist.launch.horovod_patches import (
    ALARM_HEADER,
    ALARM_TEXT,
    IDLE_MILLISECONDS,
    PATCHES,
    patch_sources,
)

SOURCE = """
#include "alarm.h"
extern "C" void ring() { tfdist::alarm().ring(); }
extern "C" void wait() { tfdist::alarm().wait(); }
"""


@pytest.fixture
def sources(tmp_path):
    """Files with the places that are changed, and something between them."""
    for patch in PATCHES:
        path = tmp_path / patch.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(patch.old + "// what stays\n")
    return tmp_path


def test_all_places_are_changed(sources):
    patch_sources(sources)
    for patch in PATCHES:
        assert patch.new in (sources / patch.file).read_text()
    assert (sources / ALARM_HEADER).read_text() == ALARM_TEXT


@pytest.mark.parametrize("times", [0, 2])
def test_unknown_sources_are_refused(sources, times):
    path = sources / PATCHES[0].file
    path.write_text(PATCHES[0].old * times)
    with pytest.raises(CommandError, match=rf"has {times} places like .* expects one"):
        patch_sources(sources)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_thread_sleeps_until_there_is_work(tmp_path):
    def compiled(milliseconds):
        library = tmp_path / f"{milliseconds}.so"
        text = ALARM_TEXT.replace(
            f"milliseconds({IDLE_MILLISECONDS})", f"milliseconds({milliseconds})"
        )
        (tmp_path / "alarm.h").write_text(text)
        source = tmp_path / "alarm.cc"
        source.write_text(SOURCE)
        command = ["g++", "-std=c++14", "-O2", "-shared", "-fPIC", "-pthread"]
        subprocess.run([*command, source, "-o", library], check=True, timeout=60)
        return ctypes.CDLL(str(library))

    def seconds(function):
        began = time.monotonic()
        function()
        return time.monotonic() - began

    patient, idle = compiled(60_000), compiled(50)
    patient.ring()  # before the thread comes to wait
    assert seconds(patient.wait) < 60
    timer = threading.Timer(0.2, patient.ring)
    timer.start()
    assert 0.1 < seconds(patient.wait) < 60
    timer.join()
    assert seconds(idle.wait) >= 0.05  # nothing rings
    idle.ring()
    idle.wait()
    assert seconds(idle.wait) >= 0.05  # what has rung once was answered once
