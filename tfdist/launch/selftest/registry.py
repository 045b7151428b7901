"""The list of checks; a new one is a function in `checks.py` and a line here."""

from __future__ import annotations

from dataclasses import dataclass

SINGLE = "single"  # the way that is the reference: plain Keras, one process


@dataclass(frozen=True)
class Check:
    """One line of the self-test, in every way to train."""

    name: str  # shown; the function of `checks.py` has it, with underscores
    what: str  # what is right when it passes
    compared: bool = True  # with plain Keras in one process; else it judges itself


CHECKS = (
    Check("collectives", "sums, means and gathered rows are right", compared=False),
    Check("broadcast", "all ranks start from the weights of rank 0"),
    Check("fit", "weights, optimizer and history of one process"),
    Check("predict", "one process's predictions, in order"),
    Check("compression", "one process's weights, sent as numbers and places"),
)
