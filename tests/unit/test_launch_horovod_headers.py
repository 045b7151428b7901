"""What the compiler sees before Horovod: a moved header, and sums of float16."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from tfdist.launch import horovod_headers
from tfdist.launch.horovod_plan import processor_instructions

# As gloo/math.h and gloo/types.h declare and define them, which come later.
GLOO = """
namespace gloo {
struct alignas(2) float16 { uint16_t x; };
template <typename T>
void sum(void* result, const void* first, const void* second, size_t count) {
  for (size_t i = 0; i < count; i++) static_cast<uint16_t*>(result)[i] = 0xFFFF;
}
}
extern "C" void sum(void* result, const void* first, const void* second, size_t count) {
  void (*function)(void*, const void*, const void*, size_t) = &gloo::sum<gloo::float16>;
  function(result, first, second, count);
}
"""


@pytest.fixture
def tensorflow(tmp_path):
    """TensorFlow's include folder, with the header at its new place only."""
    folder = tmp_path / "include"
    new = folder / horovod_headers.NEW_HEADER
    new.parent.mkdir(parents=True)
    new.touch()
    return folder


def test_moved_header_is_forwarded(tensorflow, tmp_path):
    ours = horovod_headers.write_headers(tensorflow, tmp_path / "ours")
    forwarding = ours / horovod_headers.OLD_HEADER
    assert forwarding.read_text() == '#include "xla/hlo/builder/xla_builder.h"\n'


def test_header_at_its_old_place_is_left_alone(tensorflow, tmp_path):
    old = tensorflow / horovod_headers.OLD_HEADER
    old.parent.mkdir(parents=True)
    old.touch()
    ours = horovod_headers.write_headers(tensorflow, tmp_path / "ours")
    assert [each.name for each in ours.iterdir()] == [horovod_headers.EARLY_HEADER]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.skipif(
    not {"avx", "f16c"} <= set(processor_instructions()), reason="needs AVX and F16C"
)
def test_float16_is_added_as_numpy_does(tensorflow, tmp_path):
    """All pairs of 2048 bit patterns; also in place, and what is left over of 8."""
    ours = horovod_headers.write_headers(tensorflow, tmp_path / "ours")
    (tmp_path / "gloo.cc").write_text(GLOO)

    def compiled(*flags):
        library = tmp_path / f"{len(flags)}.so"
        command = ["g++", "-std=c++14", "-O2", "-shared", "-fPIC", *flags]
        early = ["-include", horovod_headers.EARLY_HEADER, "-I", str(ours)]
        source = [str(tmp_path / "gloo.cc"), "-o", str(library)]
        subprocess.run([*command, *early, *source], check=True, timeout=60)
        function = ctypes.CDLL(str(library)).sum
        function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_size_t]
        return function

    patterns = np.arange(0, 2**16, 32).astype("uint16") + np.arange(2**11) % 32
    values = patterns.astype("uint16").view("float16")
    first, second = (each.ravel() for each in np.meshgrid(values, values))
    first, second = first[:-3].copy(), second[:-3].copy()
    with np.errstate(all="ignore"):
        wanted = first + second
    result = first.copy()
    compiled("-mavx", "-mf16c")(
        result.ctypes.data, result.ctypes.data, second.ctypes.data, result.size
    )
    np.testing.assert_array_equal(result, wanted)  # NaN equals NaN
    # Without the instructions, Gloo's own template is what is compiled.
    compiled()(result.ctypes.data, first.ctypes.data, second.ctypes.data, result.size)
    assert (result.view("uint16") == 0xFFFF).all()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_yield_is_a_pause(tensorflow, tmp_path):
    """So Horovod's timeline thread, an endless loop of them, leaves its core free."""
    ours = horovod_headers.write_headers(tensorflow, tmp_path / "ours")
    source = tmp_path / "look.cc"
    source.write_text("#include <thread>\nvoid look() { std::this_thread::yield(); }")

    def symbols(*flags):
        library = tmp_path / f"{len(flags)}.so"
        command = ["g++", "-std=c++14", "-O2", "-shared", "-fPIC", *flags]
        subprocess.run([*command, source, "-o", library], check=True, timeout=60)
        command = ["nm", "--dynamic", library]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}

    early = symbols("-include", horovod_headers.EARLY_HEADER, "-I", str(ours))
    assert {"nanosleep", "horovod_timeline_pauses"} <= early
    assert "sched_yield" not in early
    assert "sched_yield" in symbols()  # the negative control
