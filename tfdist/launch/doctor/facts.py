"""Facts about one host, gathered without TensorFlow in this process.

This file needs nothing but Python: its text is sent to other hosts over ssh and
run there, so it works where tfdist is missing or of another version. Nothing
here raises or waits without a limit; what cannot be found out is None or empty.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

MARK = "tfdist-facts: "  # before the JSON, which a login's greeting may precede
FLAG = "--json-facts"
PROGRAM_SECONDS = 10.0
NAME_SECONDS = 5.0
IMPORT_SECONDS = 60.0
SIOCGIFADDR = 0x8915  # the ioctl that reads an interface's IPv4 address

DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu")
NCCL_DISTRIBUTIONS = ("nvidia-nccl-cu12", "nvidia-nccl-cu13", "nvidia-nccl-cu11")
# Others may hold secrets (HOROVOD_SECRET_KEY), and the block is pasted in public.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HOROVOD_CPU_OPERATIONS",
    "HOROVOD_CONTROLLER",
    "HOROVOD_ELASTIC",
    "HOROVOD_GLOO_IFACE",
    "KERAS_BACKEND",
    "NCCL_SOCKET_IFNAME",
    "OMP_NUM_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_USE_LEGACY_KERAS",
)

# Imports run in a process of their own: one that hangs or crashes is a finding. Each
# stage prints one line of JSON, so that what came before a crash is not lost.
STAGES = ("tensorflow", "horovod")
PROBE = """
import json, sys

def tensorflow():
    import tensorflow as tf
    details = tf.config.experimental.get_device_details
    gpus = tf.config.list_physical_devices("GPU")
    return [details(gpu).get("device_name", gpu.name) for gpu in gpus]

def horovod():
    import horovod.tensorflow as hvd
    built = {"Gloo": hvd.gloo_built, "MPI": hvd.mpi_built, "NCCL": hvd.nccl_built,
             "CUDA": hvd.cuda_built, "ROCm": hvd.rocm_built, "oneCCL": hvd.ccl_built}
    return [name for name, found in built.items() if found()]

for stage in sys.argv[1:]:
    try:
        found = {"found": globals()[stage]()}
    except BaseException as error:
        first = (str(error).strip().splitlines() or [""])[0]
        found = {"error": f"{type(error).__name__}: {first}"[:300]}
    print(json.dumps({"stage": stage, **found}), flush=True)
"""


@dataclass(frozen=True)
class Interface:
    """One network interface."""

    name: str
    up: bool = True
    address: str = ""  # IPv4; empty: none
    megabits: int = 0  # Mbit/s; 0: the driver does not say


@dataclass(frozen=True)
class Facts:
    """What is known about one host; the defaults mean: not found."""

    host: str = ""
    system: str = ""
    python: str = ""  # "3.11.2"
    executable: str = ""
    tfdist: str = ""  # versions; empty: not installed
    keras: str = ""
    tensorflow: dict[str, str] = field(default_factory=dict)  # distribution: version
    tensorflow_error: str = ""  # why it cannot be imported
    tensorflow_gpus: list[str] = field(default_factory=list)  # those TensorFlow sees
    horovod: str = ""
    horovod_tensorflow: str = ""  # the TensorFlow that it was built against
    horovod_error: str = ""
    horovod_features: list[str] = field(default_factory=list)  # "Gloo", "MPI", ...
    horovod_instructions: list[str] = field(default_factory=list)  # "avx", "f16c", ...
    horovod_lacks: list[str] = field(default_factory=list)  # the processor has not
    mpi: str = ""  # what `mpirun --version` says first
    gpus: list[str] = field(default_factory=list)  # those the driver lists
    nccl: str = ""
    cores: int = 0  # that this process may use
    variables: dict[str, str] = field(default_factory=dict)  # of VARIABLES
    interfaces: list[Interface] = field(default_factory=list)
    name_addresses: list[str] = field(default_factory=list)  # of the own host name
    clock_before: float = 0.0  # Unix time, before and after gathering
    clock_after: float = 0.0


def gather(environment: Mapping[str, str] = os.environ) -> Facts:
    """Returns the facts about this host; takes seconds, as it imports TensorFlow."""
    before = time.time()
    tensorflow = {
        name: version for name in DISTRIBUTIONS if (version := _version(name))
    }
    installed = [stage for stage in STAGES if _version(stage) or stage == STAGES[0]]
    probed = _probe(installed) if tensorflow else {}
    tensorflow_gpus, tensorflow_error = probed.get("tensorflow", ([], ""))
    features, horovod_error = probed.get("horovod", ([], ""))
    host = socket.gethostname()
    instructions = _horovod_instructions()
    return Facts(
        host=host,
        system=" ".join(
            (platform.system(), platform.release(), platform.machine())
            + platform.libc_ver()
        ),
        python=platform.python_version(),
        executable=sys.executable,
        tfdist=_tfdist_version(),
        keras=_version("keras"),
        tensorflow=tensorflow,
        tensorflow_error=tensorflow_error,
        tensorflow_gpus=tensorflow_gpus,
        horovod=_version("horovod"),
        horovod_tensorflow=_horovod_tensorflow(),
        horovod_error=horovod_error,
        horovod_features=features,
        horovod_instructions=instructions,
        horovod_lacks=[each for each in instructions if each not in _processor_flags()],
        mpi=_first_line(["mpirun", "--version"]),
        gpus=_lines(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]),
        nccl=next(filter(None, map(_version, NCCL_DISTRIBUTIONS)), ""),
        cores=len(os.sched_getaffinity(0)),
        variables={n: environment[n] for n in VARIABLES if n in environment},
        interfaces=_interfaces(),
        name_addresses=_addresses(host),
        clock_before=before,
        clock_after=time.time(),
    )


def to_json(facts: Facts) -> str:
    """Returns one line, which `reading.from_json` reads."""
    return json.dumps(asdict(facts))


def _version(distribution: str) -> str:
    try:
        return str(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return ""


def _horovod_tensorflow() -> str:
    """Reads what Horovod's build wrote into its package (metadata.json)."""
    try:
        folder = metadata.distribution("horovod").locate_file("horovod")
        built = json.loads(Path(str(folder), "metadata.json").read_text())
        return str(built.get("tensorflow", ""))
    except (metadata.PackageNotFoundError, OSError, ValueError, AttributeError):
        return ""


def _horovod_instructions() -> list[str]:
    """Reads what `tfdist horovod install` planned, while its cache exists."""
    try:
        record = metadata.distribution("horovod").read_text("direct_url.json")
        wheel = Path(json.loads(record or "{}")["url"].removeprefix("file://"))
        plan = json.loads(wheel.with_name("plan.json").read_text())
        return [str(each) for each in plan["instructions"]]
    except (metadata.PackageNotFoundError, OSError, ValueError, LookupError, TypeError):
        return []


def _processor_flags() -> set[str]:
    with contextlib.suppress(OSError):
        return set(Path("/proc/cpuinfo").read_text().split())
    return set()


def _tfdist_version() -> str:
    # A checkout on PYTHONPATH is not installed; importing it would need TensorFlow.
    installed = _version("tfdist")
    found = importlib.util.find_spec("tfdist") if not installed else None
    if found is None or found.origin is None:
        return installed
    match = re.search(r'^__version__ = "([^"]+)"', _content(Path(found.origin)), re.M)
    return match[1] if match else ""


def _probe(stages: Sequence[str]) -> dict[str, tuple[list[str], str]]:
    """Imports libraries; returns (what they say, what went wrong) by stage."""
    command = [sys.executable, "-c", PROBE, *stages]
    exit_code, output, _ = _run(command, IMPORT_SECONDS, {"TF_CPP_MIN_LOG_LEVEL": "3"})
    ending = f"exit code {exit_code}"
    if exit_code is None:
        ending = f"it took more than {IMPORT_SECONDS:.0f} s"
    elif exit_code < 0:
        ending = f"the process was ended by signal {-exit_code}"
    return read_probe(stages, output, ending)


def read_probe(
    stages: Sequence[str], output: str, ending: str
) -> dict[str, tuple[list[str], str]]:
    """Returns (what it said, what went wrong) of every stage that was begun.

    Args:
        stages: Their names, in order.
        output: What the process printed: a line of JSON for each stage that ended.
        ending: How the process ended; the reason where a line is missing.

    Example:
        >>> read_probe(["a", "b"], '{"stage": "a", "found": ["x"]}', "signal 11")
        {'a': (['x'], ''), 'b': ([], 'signal 11')}
    """
    found: dict[str, tuple[list[str], str]] = {}
    for line in output.splitlines():
        if line.startswith('{"stage": '):
            said = json.loads(line)
            found[said["stage"]] = (said.get("found", []), said.get("error", ""))
    missing = [stage for stage in stages if stage not in found]
    return found | {stage: ([], ending) for stage in missing[:1]}


def _first_line(command: Sequence[str]) -> str:
    return next(iter(_lines(command)), "")


def _lines(command: Sequence[str]) -> list[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    program = shutil.which(command[0], path=path)
    if program is None:
        return []
    exit_code, output, _ = _run([program, *command[1:]], PROGRAM_SECONDS, {})
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines if exit_code == 0 else []


def _run(
    command: Sequence[str], seconds: float, extra: Mapping[str, str]
) -> tuple[int | None, str, str]:
    """Returns (exit code, output, errors); the code is None when time was up."""
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **extra},
        )
    except OSError as error:
        return 127, "", str(error)
    try:
        output, errors = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as expired:
        child.kill()
        # A process that is stuck in a driver (nvidia-smi) cannot be killed.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=1.0)
        # Bytes, even where text was asked for.
        partial = expired.stdout or b""
        text = partial.decode(errors="replace") if isinstance(partial, bytes) else ""
        return None, text, ""
    return child.returncode, output, errors


def _interfaces() -> list[Interface]:
    folder = Path("/sys/class/net")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [
        Interface(
            name=name,
            up=_content(folder / name / "operstate") in ("up", "unknown"),
            address=_interface_address(name),
            megabits=max(0, _integer(_content(folder / name / "speed"))),
        )
        for name in names
    ]


def _content(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:  # the speed of an interface without a cable, for one
        return ""


def _integer(text: str) -> int:
    return int(text) if text.removeprefix("-").isdecimal() else 0


def _interface_address(name: str) -> str:
    request = struct.pack("256s", name.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked.fileno(), SIOCGIFADDR, request)
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


def _addresses(name: str) -> list[str]:
    def resolve() -> list[str]:
        try:
            return socket.gethostbyname_ex(name)[2]
        except OSError:
            return []

    return _in_time(resolve, NAME_SECONDS) or []


def _in_time(function: Callable[[], list[str]], seconds: float) -> list[str] | None:
    """Returns the function's result, or None if it takes longer (a lost DNS)."""
    results: list[list[str]] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None


if __name__ == "__main__" and FLAG in sys.argv[1:]:
    print(MARK + to_json(gather()), flush=True)
    # At once: a thread that still waits for DNS must not hold up the exit.
    os._exit(0)
