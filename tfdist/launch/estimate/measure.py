"""Measures a cluster's links with real all-reduces."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from tfdist.launch import local_jobs
from tfdist.launch.arguments import parse_hosts
from tfdist.launch.errors import FAILED, CommandError
from tfdist.launch.estimate.cost import Link
from tfdist.launch.estimate.fit import fit_link
from tfdist.launch.estimate.probe import MARK
from tfdist.launch.processes import TIMED_OUT, find_program, run_together, tail

CONTROLLERS = ("gloo", "mpi")
TIMEOUT_SECONDS = 180.0
HERE = 2  # ranks on this machine, where no hosts are given


def measure(controller: str, hosts: str | None, latency: float) -> Link:
    """Runs all-reduces of several sizes through Horovod and fits the model to them.

    Args:
        controller: "gloo" or "mpi".
        hosts: `host:slots,...`; None: two ranks on this machine.
        latency: What one message is taken to need; see `fit_link`.

    Raises:
        CommandError: If Horovod or its launcher is missing (nothing was started),
            or the measurement fails.
    """
    if controller not in CONTROLLERS:
        raise CommandError(
            f"--measure: unknown {controller!r}; known: {', '.join(CONTROLLERS)}.",
            hint="--measure gloo",
        )
    ranks = HERE if hosts is None else sum(each.slots for each in parse_hosts(hosts))
    if ranks < 2:
        raise CommandError("-H: one rank has no link.", hint=f"-H {hosts}:2")
    if find_program("horovodrun") is None:
        raise CommandError(
            "--measure needs Horovod; horovodrun was not found.",
            hint="tfdist horovod install",
        )
    folder = Path(tempfile.mkdtemp(prefix="tfdist-measure-"))
    programs = local_jobs.horovodrun(
        ["-m", "tfdist.launch.estimate.probe"],
        folder,
        controller=controller,
        np=ranks,
        hosts=hosts or "",
    )
    print(f"measuring all-reduces of {ranks} ranks over {controller}", flush=True)
    (exit_code,) = run_together(programs, timeout=TIMEOUT_SECONDS)
    log = programs[0].log
    found = read_samples(log.read_text(errors="replace"))
    if exit_code or found is None:
        print(tail(log), file=sys.stderr)
        state = "did not end" if exit_code == TIMED_OUT else f"exit code {exit_code}"
        raise CommandError(
            f"The measurement failed: {state}.",
            hint=f"the whole output is in {log}",
            exit_code=FAILED,
        )
    shutil.rmtree(folder)
    try:
        return fit_link(found, ranks, latency)
    except ValueError as error:
        raise CommandError(
            f"The measurement says nothing: {error}.",
            hint="measure again when nothing else runs on these hosts",
            exit_code=FAILED,
        ) from error


def read_samples(output: str) -> list[tuple[float, float]] | None:
    """Returns what the probe printed, (bytes, seconds), or None."""
    for line in output.splitlines():
        _, mark, text = line.partition(MARK)
        if mark:
            return [(float(n), float(t)) for n, t in json.loads(text)["samples"]]
    return None
