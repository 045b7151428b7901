"""What `tfdist doctor` prints: for people, and for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from tfdist.launch.doctor.facts import Facts
from tfdist.launch.doctor.host_checks import installed_tensorflow
from tfdist.launch.doctor.verdicts import FAILED, Examination, Verdict

LABELS = {"ok": "ok", "failed": "FAILED", "skipped": "-"}


def show(examination: Examination, verdicts: Mapping[str, Verdict]) -> str:
    """Returns the block that is pasted into an issue: no addresses, no secrets."""
    lines = [*_fact_lines(examination.here), ""]
    width = max(map(len, verdicts))
    for name, verdict in verdicts.items():
        lines.append(f"{LABELS[verdict.status]:6} {name:{width}}  {verdict.text}")
        if verdict.hint:
            lines.append(f"{'':6} {'':{width}}  HINT: {verdict.hint}")
    # Other hosts wrote some of it; it must not steer this terminal.
    return "\n".join(
        "".join(letter if letter.isprintable() else "?" for letter in line)
        for line in lines
    )


def show_json(examination: Examination, verdicts: Mapping[str, Verdict]) -> str:
    """Returns everything, addresses included, as one JSON object."""
    return json.dumps(
        {
            "healthy": all(each.status != FAILED for each in verdicts.values()),
            "checks": {name: asdict(each) for name, each in verdicts.items()},
            "here": asdict(examination.here),
            "hosts": [asdict(answer) for answer in examination.answers],
        },
        indent=2,
    )


def _fact_lines(facts: Facts) -> Iterator[str]:
    rows = {
        "tfdist": facts.tfdist,
        "Python": f"{facts.python} ({_short(facts.executable)})",
        "system": facts.system,
        "TensorFlow": installed_tensorflow(facts),
        "Keras": facts.keras,
        "Horovod": _horovod(facts),
        "MPI": facts.mpi,
        "GPUs": ", ".join(facts.gpus or facts.tensorflow_gpus),
        "NCCL": facts.nccl,
        "cores": str(facts.cores),
        "variables": ", ".join(f"{n}={v}" for n, v in facts.variables.items()),
        "interfaces": ", ".join(_interfaces(facts)),
    }
    for name, value in rows.items():
        yield f"{name:10}  {value or 'none'}"


def _short(path: str) -> str:
    home = str(Path.home())
    return f"~{path[len(home) :]}" if path.startswith(f"{home}/") else path


def _horovod(facts: Facts) -> str:
    if not facts.horovod:
        return ""
    parts = [facts.horovod]
    if facts.horovod_tensorflow:
        parts.append(f"built against TensorFlow {facts.horovod_tensorflow}")
    if facts.horovod_features:
        features = [*facts.horovod_features, *facts.horovod_instructions]
        parts.append(f"with {', '.join(features)}")
    return " ".join(parts)


def _interfaces(facts: Facts) -> Iterator[str]:
    for each in facts.interfaces:
        speed = "speed unknown" if not each.megabits else f"{each.megabits} Mbit/s"
        if each.name != "lo":
            yield f"{each.name} ({speed if each.up else 'down'})"
