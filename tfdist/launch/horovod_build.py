"""Compiles Horovod's last release against a TensorFlow that it does not know.

As it is, 0.28.1 builds against no recent TensorFlow (horovod#4290, PR #4302
open): TensorFlow moved a header, and two header-only libraries that its own
headers include lie in its wheel, but on no include path.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tfdist.launch.errors import FAILED, CommandError
from tfdist.launch.horovod_headers import EARLY_HEADER, write_headers
from tfdist.launch.horovod_patches import patch_sources
from tfdist.launch.horovod_plan import (
    ARCH_FLAGS,
    HOROVOD_SHA256,
    HOROVOD_VERSION,
    BuildPlan,
    tensorflow_headers,
)
from tfdist.launch.processes import child_environment, first_error, run_logged

# What Horovod imports when it runs, and its setup.py when it builds.
REQUIREMENTS = ("cloudpickle", "packaging", "psutil", "pyyaml")

# Horovod's setup.py is of the old kind. These go to a folder of the build's own,
# so that the user's setuptools stays as it is.
BUILD_TOOLS = ("setuptools<81", "wheel", *REQUIREMENTS)

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
BUILD_TIMEOUT_SECONDS = 3600.0

# From lib/python3.X/site-packages/horovod/tensorflow to lib, as the loader writes it.
_LIBRARIES = "$ORIGIN/../../../.."


def build_wheel(plan: BuildPlan, destination: Path) -> Path:
    """Builds the planned wheel and returns its path in the destination.

    Args:
        plan: What to build.
        destination: A folder; receives the wheel and `build.log`.

    Raises:
        CommandError: If the build fails; the log's first error is printed.
    """
    log = destination / "build.log"
    log.unlink(missing_ok=True)
    print(f"horovod: building, 2 to 10 minutes; log: {log}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tfdist-horovod-") as folder:
        scratch = Path(folder)
        _run_pip("install", "--target", scratch / "tools", *BUILD_TOOLS, log=log)
        requirement = scratch / "requirement.txt"
        requirement.write_text(
            f"horovod=={HOROVOD_VERSION} --hash=sha256:{HOROVOD_SHA256}\n"
        )
        environment = _build_environment(plan, scratch)
        _run_pip(
            *("download", "--no-build-isolation", "--no-deps"),
            *("--no-binary", "horovod", "--require-hashes", "-r", requirement),
            *("--dest", scratch / "archive"),
            log=log,
            environment=environment,
        )
        archive = next((scratch / "archive").glob("horovod-*.tar.gz"))
        shutil.unpack_archive(archive, scratch / "source", filter="data")
        source = next((scratch / "source").iterdir())
        patch_sources(source)
        # --no-cache-dir: pip keeps the wheels that it builds and would hand out
        # one that was built against another TensorFlow.
        _run_pip(
            *("wheel", "--no-build-isolation", "--no-deps", "--no-cache-dir"),
            *("--wheel-dir", scratch / "wheels", source),
            log=log,
            environment=environment,
        )
        built = next((scratch / "wheels").glob("horovod-*.whl"))
        wheel = _move_atomically(built, destination / built.name)
    print(f"horovod: built in {time.monotonic() - started:.0f} s", flush=True)
    return wheel


def install_wheel(wheel: Path, log: Path) -> None:
    """Installs a wheel that was built here into this interpreter's environment.

    Raises:
        CommandError: If pip fails.
    """
    _run_pip("install", *REQUIREMENTS, log=log)
    _run_pip("install", "--no-deps", "--force-reinstall", wheel, log=log)


def uninstall(log: Path) -> None:
    """Removes Horovod from this interpreter's environment."""
    _run_pip("uninstall", "--yes", "horovod", log=log)


def _build_environment(plan: BuildPlan, scratch: Path) -> dict[str, str]:
    environment = child_environment(dict(plan.variables))
    headers = tensorflow_headers()
    include = [
        write_headers(headers, scratch / "headers"),
        headers / "external/highwayhash",
        headers / "external/farmhash_archive/src",
        environment.get("CPLUS_INCLUDE_PATH"),
    ]
    environment.update(
        CPLUS_INCLUDE_PATH=os.pathsep.join(str(path) for path in include if path),
        PYTHONPATH=os.pathsep.join(
            filter(None, (str(scratch / "tools"), environment.get("PYTHONPATH")))
        ),
        HOROVOD_WITH_TENSORFLOW="1",
        HOROVOD_WITHOUT_PYTORCH="1",
        HOROVOD_WITHOUT_MXNET="1",
        HOROVOD_WITH_GLOO="1",
        # CMake 4 refuses the vendored libraries' cmake_minimum_required(2.8).
        CMAKE_POLICY_VERSION_MINIMUM="3.5",
        CXXFLAGS=f"-include {EARLY_HEADER} {environment.get('CXXFLAGS', '')}".strip(),
        # mpicxx links with the path of this environment. The wheel may be taken from
        # the cache into another one, where pip's Open MPI lies beside Python too.
        LDFLAGS=f"-Wl,-rpath,{_LIBRARIES} {environment.get('LDFLAGS', '')}".strip(),
        # Under `make`, an inherited MAKEFLAGS would mean one job; without one,
        # Horovod takes eight.
        MAKEFLAGS=f"-j{len(os.sched_getaffinity(0))}",
    )
    environment.setdefault(ARCH_FLAGS, " ".join(f"-m{i}" for i in plan.instructions))
    environment["HOROVOD_WITH_MPI" if plan.mpi else "HOROVOD_WITHOUT_MPI"] = "1"
    return environment


def _move_atomically(source: Path, destination: Path) -> Path:
    # The scratch folder may be on another file system, where a rename copies, so
    # another reader of the cache could see half a wheel.
    part = destination.with_suffix(".part")
    part.write_bytes(source.read_bytes())
    part.replace(destination)
    return destination


def _run_pip(
    *arguments: str | Path, log: Path, environment: dict[str, str] | None = None
) -> None:
    exit_code = run_logged(
        [*PIP, *arguments],
        log,
        environment=environment or child_environment(),
        timeout=BUILD_TIMEOUT_SECONDS,
    )
    if exit_code:
        print(first_error(log), file=sys.stderr)
        raise CommandError(
            f"`pip {arguments[0]}` ended with exit code {exit_code}.",
            hint=f"the whole output is in {log}",
            exit_code=FAILED,
        )
