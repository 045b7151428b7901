"""The build's surroundings, the cache, and the order of `tfdist horovod install`."""

import dataclasses
import threading
from pathlib import Path

import pytest

from tests.unit.test_launch_horovod_plan import PLAN
from tfdist.launch import (
    horovod_build,
    horovod_cache,
    horovod_headers,
    horovod_plan,
    horovod_proof,
    main,
)
from tfdist.launch.errors import FAILED, NOT_STARTED, CommandError


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("TFDIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def headers(monkeypatch, tmp_path) -> Path:
    """TensorFlow's include folder, with the header at its new place only."""
    folder = tmp_path / "include"
    new = folder / horovod_headers.NEW_HEADER
    new.parent.mkdir(parents=True)
    new.touch()
    monkeypatch.setattr(horovod_build, "tensorflow_headers", lambda: folder)
    return folder


@pytest.fixture
def steps(monkeypatch):
    """Replaces what takes minutes; records the order of what was called."""
    called: list[str] = []
    state = {"key": None}

    def build(plan, shelf):
        called.append("build")
        wheel = shelf / "horovod-0.28.1.whl"
        wheel.touch()
        return wheel

    def install(wheel, log):
        called.append("install")
        state["key"] = wheel.parent.name

    def uninstall(log):
        called.append("uninstall")
        state["key"] = None

    monkeypatch.setattr(horovod_plan, "make_plan", lambda **options: PLAN)
    monkeypatch.setattr(horovod_plan, "check_toolchain", lambda: None)
    monkeypatch.setattr(horovod_build, "build_wheel", build)
    monkeypatch.setattr(horovod_build, "install_wheel", install)
    monkeypatch.setattr(horovod_build, "uninstall", uninstall)
    monkeypatch.setattr(horovod_cache, "installed_key", lambda: state["key"])
    monkeypatch.setattr(
        horovod_proof, "prove", lambda controller, log: called.append(controller)
    )
    return called


def install(*options: str) -> int:
    return main.main(["horovod", "install", *options])


def test_second_call_does_nothing(steps, capsys):
    assert install() == 0
    assert steps == ["build", "install", "gloo"]
    assert install() == 0
    assert steps == ["build", "install", "gloo"]
    assert "already installed" in capsys.readouterr().out


def test_force_builds_again(steps):
    install()
    install("--force")
    assert steps == ["build", "install", "gloo"] * 2


def test_another_plan_is_another_build(steps, monkeypatch):
    install()
    other = dataclasses.replace(PLAN, tensorflow="tensorflow-cpu 2.20.0")
    monkeypatch.setattr(horovod_plan, "make_plan", lambda **options: other)
    install()
    assert steps == ["build", "install", "gloo"] * 2


def test_cached_wheel_is_not_built_again(steps, monkeypatch):
    install()
    monkeypatch.setattr(horovod_cache, "installed_key", lambda: None)
    install()
    assert steps == ["build", "install", "gloo", "install", "gloo"]


def test_what_fails_its_proof_is_removed(steps, monkeypatch, capsys):
    def fail(controller, log):
        raise CommandError("no sum.", hint="see log", exit_code=FAILED)

    monkeypatch.setattr(horovod_proof, "prove", fail)
    assert install() == FAILED
    assert steps == ["build", "install", "uninstall"]
    assert "tfdist: no sum. HINT: see log" in capsys.readouterr().err


def test_what_is_interrupted_during_its_proof_is_removed(steps, monkeypatch):
    def interrupt(controller, log):
        raise KeyboardInterrupt

    monkeypatch.setattr(horovod_proof, "prove", interrupt)
    assert install() == 130
    assert steps == ["build", "install", "uninstall"]


def test_a_cache_that_cannot_be_written_is_named(steps, monkeypatch, capsys):
    monkeypatch.setenv("TFDIST_CACHE", "/dev/null/x")
    assert install() == NOT_STARTED
    assert not steps
    said = capsys.readouterr().err
    assert "/dev/null/x" in said and "HINT: set TFDIST_CACHE=DIR" in said


def test_half_written_wheel_is_not_found(cache):
    with horovod_cache.locked_shelf(PLAN) as shelf:
        (shelf / "horovod-0.28.1.part").touch()
        assert horovod_cache.cached_wheel(shelf) is None
        wheel = horovod_build._move_atomically(
            shelf / "horovod-0.28.1.part", shelf / "horovod-0.28.1.whl"
        )
        assert horovod_cache.cached_wheel(shelf) == wheel


def test_two_builds_of_the_same_take_turns():
    order = []

    def second():
        with horovod_cache.locked_shelf(PLAN):
            order.append("second")

    thread = threading.Thread(target=second)
    with horovod_cache.locked_shelf(PLAN):
        thread.start()
        thread.join(timeout=0.5)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    ("record", "key"),
    [
        ('{"url": "file:///c/tfdist/horovod/00ff/horovod-0.28.1.whl"}', "00ff"),
        ('{"url": "file:///home/me/horovod-0.28.1.whl"}', None),
        ("", None),
        (None, None),  # installed from an index
    ],
)
def test_key_in_record(record, key):
    assert horovod_cache.key_in_record(record) == key


def test_cache_folder_follows_the_environment(monkeypatch, cache):
    assert horovod_cache.cache_folder() == cache
    monkeypatch.delenv("TFDIST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert horovod_cache.cache_folder() == Path("/somewhere/tfdist")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert horovod_cache.cache_folder() == Path("/home/me/.cache/tfdist")


def test_build_environment(headers, tmp_path, monkeypatch):
    monkeypatch.setenv("MAKEFLAGS", "--no-print-directory")
    monkeypatch.setenv("CPLUS_INCLUDE_PATH", "/opt/include")
    plan = dataclasses.replace(
        PLAN, variables=(("HOROVOD_GPU", "CUDA"),), instructions=("avx", "f16c")
    )
    environment = horovod_build._build_environment(plan, tmp_path)
    assert environment["HOROVOD_GPU"] == "CUDA"
    assert environment["HOROVOD_WITHOUT_MPI"] == "1"
    assert "HOROVOD_WITH_MPI" not in environment
    assert environment["MAKEFLAGS"].startswith("-j")
    include = environment["CPLUS_INCLUDE_PATH"].split(":")
    assert include[0] == str(tmp_path / "headers")
    assert include[-1] == "/opt/include"
    assert all(include)  # an empty entry would mean the current folder
    assert environment["CXXFLAGS"] == "-include tfdist_early.h"
    assert environment["HOROVOD_BUILD_ARCH_FLAGS"] == "-mavx -mf16c"

    with_mpi = dataclasses.replace(PLAN, mpi="mpirun (Open MPI) 4.1.8")
    assert environment["LDFLAGS"] == "-Wl,-rpath,$ORIGIN/../../../.."
    environment = horovod_build._build_environment(with_mpi, tmp_path / "two")
    assert environment["HOROVOD_WITH_MPI"] == "1"
    assert "HOROVOD_WITHOUT_MPI" not in environment
