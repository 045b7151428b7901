"""What horovodrun need not ask, because Horovod's native library says it."""

import multiprocessing
import sys

import pytest

from tfdist.launch.run import horovodrun


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x7fELF _ZN4gloo7ContextE", {"gloo_built"}),
        (b"\x7fELF _ZN4gloo7ContextE libmpi.so.40", {"gloo_built", "mpi_built"}),
        (b"\x7fELF nothing", set()),
    ],
)
def test_only_what_the_library_holds_is_answered(tmp_path, content, expected):
    library = tmp_path / "mpi_lib_v2.so"
    library.write_bytes(content)
    assert horovodrun.questions_answered(library) == expected


@pytest.mark.parametrize("known", [True, False])
def test_horovodrun_asks_only_what_is_not_known(monkeypatch, tmp_path, known):
    launch = pytest.importorskip("horovod.runner.launch", reason="Horovod is not built")
    asked, started = [], []
    library = tmp_path / "mpi_lib_v2.so"
    library.write_bytes(b"N4gloo" if known else b"nothing")
    monkeypatch.setattr(horovodrun, "horovod_library", lambda: library)
    monkeypatch.setattr(
        launch, "gloo_built", lambda verbose: asked.append("gloo") or True
    )
    monkeypatch.setattr(launch, "gloo_run", lambda *rest: started.append(rest[-1]))
    monkeypatch.setattr(
        sys, "argv", ["x", "-np", "1", "--gloo", "--disable-cache", "train", "--fast"]
    )
    horovodrun.main()
    assert started == [["train", "--fast"]]
    assert asked == ([] if known else ["gloo"])  # the second is the negative control
    assert not multiprocessing.active_children()
