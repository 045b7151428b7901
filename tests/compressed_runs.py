"""Gradients, compressors and recorded steps that the tests of compression share."""

import functools
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tests.simulated import Sent, step
from tfdist.compression import (
    BF16,
    FP16,
    Fused,
    Int8,
    NoCompression,
    PowerSGD,
    RandomK,
    Sign,
    Slot,
    TopK,
)
from tfdist.compression.fused import Step

SLOTS = [
    Slot("first/kernel", (24, 40), tf.float32),
    Slot("first/bias", (40,), tf.float32),
    Slot("convolution/kernel", (3, 3, 4, 16), tf.float32),
    Slot("scale", (), tf.float32),
    Slot("attention/kernel", (24, 5, 8), tf.float32),
    Slot("last/kernel", (40, 3), tf.float32),
]
WITH_FEEDBACK = [
    PowerSGD(2),
    PowerSGD(2, alternate=True),
    PowerSGD(2, warm_start=False),
    RandomK(0.05),
    TopK(0.05),
    Int8(16),
    Int8(16, stochastic=True),
    Sign(),
]
ALL = [NoCompression(), FP16(), BF16(), *WITH_FEEDBACK]
EITHER = pytest.mark.parametrize("has_all_to_all", [True, False])
FIVE = pytest.param(5, marks=pytest.mark.full)
RANKS = pytest.mark.parametrize("ranks", [2, 3, FIVE])


def fused_for(compressor, ranks, slots=SLOTS, **options):
    options = {"has_all_to_all": True, "min_size": 200, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small models gain little
        return Fused(compressor, slots, ranks, **options)


def gradients(ranks, number=0, slots=SLOTS):
    draws = np.random.default_rng([ranks, number])
    return [
        [
            tf.constant(draws.normal(size=slot.shape) / ranks, slot.dtype)
            for slot in slots
        ]
        for _ in range(ranks)
    ]


class Run(NamedTuple):
    """Some steps: what happened, and sums over them of updates and gradients."""

    steps: list[list[Step]]  # by step, by rank
    sent: list[Sent]  # in the last step
    updates: list[np.ndarray]
    wanted: list[np.ndarray]

    @property
    def states(self):
        return [result.state for result in self.steps[-1]]


def run(fused, steps, ranks):
    """Run steps with new gradients each."""
    states = [fused.init() for _ in range(ranks)]
    updates = [np.zeros(slot.shape) for slot in SLOTS]
    wanted = [np.zeros(slot.shape) for slot in SLOTS]
    history = []
    for number in range(steps):
        own = gradients(ranks, number)
        results, sent = step(fused, own, states)
        states = [result.state for result in results]
        history.append(results)
        for index in range(len(SLOTS)):
            updates[index] += results[0].totals[index].numpy().astype("f8")
            wanted[index] += sum(part[index].numpy().astype("f8") for part in own)
    return Run(history, sent, updates, wanted)


@functools.cache
def recorded(compressor, ranks, has_all_to_all=True):
    """Return a step's driver and three steps of it: many tests look at the same."""
    fused = fused_for(compressor, ranks, has_all_to_all=has_all_to_all)
    return fused, run(fused, 3, ranks)


def residuals(states):
    """Return the sum over the ranks of each residual."""
    return {
        name.removeprefix("residual/"): sum(
            s[name].numpy().astype("f8") for s in states
        )
        for name in states[0]
        if name.startswith("residual/")
    }
