"""When to save: every so many steps, or often enough that little is lost or spent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol


class Schedule(Protocol):
    """Decides after each execution of steps whether a checkpoint is due.

    All ranks ask alike, and get the same answer.
    """

    def begin(self, step: int, now: float) -> None:
        """Counts from a step, at a time in seconds."""

    def is_due(self, step: int, now: float) -> bool:
        """Returns whether to save after a step."""

    def saved(self, step: int, now: float, cost: float) -> None:
        """Notes that training stood still for `cost` seconds to save a step."""


class EverySteps:
    """Saves after the steps that complete a multiple of an interval.

    Args:
        steps: The interval.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._last = 0

    def begin(self, step: int, now: float) -> None:
        """Counts from a step."""
        self._last = step

    def is_due(self, step: int, now: float) -> bool:
        """Returns whether a multiple was reached, also within an execution of steps."""
        return step // self._steps > self._last // self._steps

    def saved(self, step: int, now: float, cost: float) -> None:
        """Counts from this step on."""
        self._last = step


class EverySeconds:
    """Saves when a time has passed, by the chief's clock.

    The ranks do not ask each other in every step: whenever they meet, the chief says
    after how many steps they meet again, or that it is time. That is half of the way
    that is left, at the pace of the last steps, so that a few meetings find the step,
    and steps that become slower, or a first one that is traced, mislead nobody for
    long.

    Args:
        interval: Returns the seconds between two checkpoints, from what one costs.
        first_cost: What the first one may cost, in seconds.
        of_chief: Returns the number that the chief passes; all ranks call it.
    """

    def __init__(
        self,
        interval: Callable[[float], float],
        first_cost: float,
        of_chief: Callable[[int], int],
    ) -> None:
        self._interval = interval
        self._cost = first_cost
        self._of_chief = of_chief
        self._since = 0.0  # the last checkpoint
        self._met = (0, 0.0)  # the step and the time of the last meeting
        self._pace = 0.0  # seconds per step before it; 0: unknown
        self._meeting = 1

    def begin(self, step: int, now: float) -> None:
        """Counts from a step and a time."""
        self._since, self._met, self._meeting = now, (step, now), step + 1

    def is_due(self, step: int, now: float) -> bool:
        """Returns whether the time has passed; meets the other ranks if need be."""
        before, then = self._met
        if step < self._meeting or step == before:
            return False
        self._pace = (now - then) / (step - before)
        self._met = step, now
        left = self._interval(self._cost) - (now - self._since)
        ahead = min(self._half_of(left), 2 * (step - before)) if left > 0 else 0
        ahead = self._of_chief(ahead)
        self._meeting = step + ahead
        return ahead == 0

    def saved(self, step: int, now: float, cost: float) -> None:
        """Counts from this step and time on."""
        self._cost, self._since, self._met = cost, now, (step, now)
        ahead = self._half_of(self._interval(cost))
        self._meeting = step + self._of_chief(ahead)

    def _half_of(self, seconds: float) -> int:
        """Returns the steps to make in half of a time, at least one."""
        return max(int(seconds / self._pace / 2), 1) if self._pace else 1


def best_interval(cost: float, time_between_failures: float, overhead: float) -> float:
    """Returns the seconds between checkpoints that lose the least time.

    A checkpoint costs c seconds, and a failure half an interval T on average, so with
    a failure every M seconds the part c / T + T / (2 M) of all time is lost: least for

        T = sqrt(2 c M).

    T is not shorter than what spends the part `overhead` of the time on saving.

    Args:
        cost: c, in seconds.
        time_between_failures: M, in seconds, of the whole job: that of one machine
            divided by the number of machines.
        overhead: The largest part of the time to spend.

    References:
        Young, A first order approximation to the optimum checkpoint interval,
        Communications of the ACM, 1974; Daly, A higher order estimate of the optimum
        checkpoint interval for restart dumps, 2006.

    Example:
        >>> best_interval(cost=0.5, time_between_failures=3600.0, overhead=0.01)
        60.0
    """
    return max(math.sqrt(2 * cost * time_between_failures), cost / overhead)


def schedule_for(
    every_steps: int | None,
    every_seconds: float | None,
    best: Callable[[float], float],
    size: int,
    of_chief: Callable[[int], int],
) -> Schedule:
    """Returns the schedule that was asked for.

    Args:
        every_steps: The interval in steps, if it was given.
        every_seconds: The interval in seconds, if it was given.
        best: Returns the interval to use otherwise, from what a checkpoint costs.
        size: Bytes of the state; what the first checkpoint costs is guessed from it.
        of_chief: Returns the number that the chief passes; all ranks call it.
    """
    if every_steps is not None:
        return EverySteps(every_steps)
    interval = best if every_seconds is None else (lambda cost: every_seconds)
    return EverySeconds(interval, size / _BYTES_PER_SECOND, of_chief)


_BYTES_PER_SECOND = 1e9  # of copying
