"""One run: every method on every model over every rate."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.network import formulas, jobs, links, models, torch_environment
from benchmarks.network.links import Rate
from benchmarks.network.methods import (
    APART,
    COLLECTIVES,
    ONE_PROCESS,
    STAGES,
    Method,
)
from benchmarks.network.results import Failure, Results, Row
from tests.hosts.bed import Bed, hosts

START_SECONDS = 240.0  # imports, tracing, the first steps
FREE = Rate(links.UNLIMITED)


@dataclass(frozen=True)
class Plan:
    """What to measure, and for how long."""

    rates: Sequence[Rate]
    models: Sequence[str]
    methods: Sequence[Method]
    hosts: int
    seconds: float  # of timed steps for each row
    least: int  # steps, however long they take
    most: int


def run(plan: Plan) -> Results:
    """Measures everything; what fails is noted and does not stop the rest."""
    results = Results(plan.hosts, _machine())
    with hosts(plan.hosts) as bed:
        for rate in plan.rates:
            links.set_rate(bed, rate)
            results.raw[rate.name] = links.raw_rate(bed, rate)
            _say(f"{rate.name}: plain TCP {results.raw[rate.name] / 1e6:.0f} Mbit/s")
        for model, method in itertools.product(
            plan.models, (ONE_PROCESS, APART, *plan.methods)
        ):
            if method.torch and not torch_environment.exists():
                why = "there is no PyTorch; add --with-torch"
                results.failures.append(Failure(model, method.name, why, True))
                continue
            try:
                _measure(bed, plan, method, model, results)
            except jobs.JobError as error:
                results.failures.append(Failure(model, method.name, str(error)))
                _say(f"{model}, {method.name}: {error}")
        for model, (method, stages) in itertools.product(
            plan.models, ((STAGES, _stages), (COLLECTIVES, _collectives))
        ):
            try:
                stages(bed, plan, model, results)
            except jobs.JobError as error:
                results.failures.append(Failure(model, method.name, str(error)))
                _say(f"{model}, {method.name}: {error}")
    results.machine["load afterwards"] = os.getloadavg()[0]
    return results


def _measure(
    bed: Bed, plan: Plan, method: Method, model: str, results: Results
) -> None:
    """Adds a method's rows: first it learns over fast links, then it is timed."""
    task = models.task(model)
    rates: Sequence[Rate] = plan.rates
    if method in (ONE_PROCESS, APART):
        rates = [Rate("")]
    links.set_rate(bed, FREE)
    with jobs.started(bed, method, model) as job:
        losses: list[float] = []
        reached = None
        while reached is None and len(losses) < task.steps:
            answers = job.ask(START_SECONDS, steps=2 * models.BATCHES)
            of_ranks = zip(*(each["losses"] for each in answers), strict=True)
            losses += map(statistics.fmean, of_ranks)
            reached = formulas.steps_to_loss(losses, task.loss, models.BATCHES)
        results.shapes.setdefault(model, answers[0]["shapes"])
        for rate in rates:
            if rate.name:
                links.set_rate(bed, rate)
            seconds, counted, busy = _timed(bed, plan, job)
            row = Row(
                model,
                method.name,
                rate.name,
                seconds,
                counted,
                _formula(method, answers[0], len(answers)),
                reached,
                busy,
            )
            results.rows.append(row)
            _say(
                f"{model}, {method.name}, {rate.name or 'alone'}: "
                f"{1e3 * row.step:.1f} ms, {counted / 1e6:.2f} MB a step"
            )


def _timed(bed: Bed, plan: Plan, job: jobs.Job) -> tuple[list[float], float, float]:
    """Returns the seconds of each step of all ranks, and means of a rank's step.

    They are the bytes that its host sends, and the seconds in which it computes.
    """
    # The first step of an order begins when a rank sees it, not when all do.
    trial = job.ask(START_SECONDS, steps=2)
    guess = max(each["seconds"][-1] for each in trial)
    count = min(plan.most, max(plan.least, round(plan.seconds / guess)))
    before = links.sent_bytes(bed)
    answers = job.ask(START_SECONDS + 10 * count * guess, steps=count + 1)
    sent = [now - then for now, then in zip(links.sent_bytes(bed), before, strict=True)]
    seconds = [second for each in answers for second in each["seconds"][1:]]
    busy = statistics.fmean(each["busy"] for each in answers)
    return seconds, sum(sent) / len(sent) / (count + 1), busy / (count + 1)


def _formula(method: Method, answer: dict, ranks: int) -> float:
    """Returns the bytes of a rank's step by arithmetic."""
    if method in (ONE_PROCESS, APART):
        return 0.0
    if method.sent is None:
        return float(answer["formula"])
    return method.sent(answer["shapes"], ranks) + float(answer["sparse"])


def _stages(bed: Bed, plan: Plan, model: str, results: Results) -> None:
    """Adds what a step's stages take on every host at once, without a network."""
    compressors = {
        method.name: {key: method.options[key] for key in ("compressor", "parameters")}
        for method in plan.methods
        if "compressor" in method.options
    }
    with jobs.started(bed, STAGES, model) as job:
        stages = results.stages.setdefault(model, {})
        orders = {"forward": {}, **compressors}
        for name, order in orders.items():
            answers = job.ask(START_SECONDS, ranks=plan.hosts, **order)
            seconds = [second for each in answers for second in each["seconds"]]
            stages[name] = formulas.quartiles(seconds)[1]
            _say(f"{model}, {name} alone: {1e3 * stages[name]:.1f} ms")


def _collectives(bed: Bed, plan: Plan, model: str, results: Results) -> None:
    """Adds what the collectives of tfdist's methods take alone, at every rate."""
    plain = {"compressor": "none", "parameters": {}}
    orders = {
        method.name: {key: method.options.get(key, plain[key]) for key in plain}
        for method in plan.methods
        if not method.peer
    }
    links.set_rate(bed, FREE)
    with jobs.started(bed, COLLECTIVES, model) as job:
        stages = results.stages.setdefault(model, {})
        for rate, (name, order) in itertools.product(plan.rates, orders.items()):
            links.set_rate(bed, rate)
            answers = job.ask(START_SECONDS, **order)
            seconds = [second for each in answers for second in each["seconds"]]
            stage = f"collectives of {name}, {rate.name}"
            stages[stage] = formulas.quartiles(seconds)[1]
            _say(f"{model}, {stage}: {1e3 * stages[stage]:.1f} ms")


def _machine() -> dict:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("keras", "horovod", "numpy")
        },
    }


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        names = [
            line.partition(":")[2].strip() for line in file if "model name" in line
        ]
    return names[0] if names else platform.machine()


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)
