"""Trains with `steps_per_execution` and a remainder, many times in a row."""

from typing import Any

import numpy as np

from tests.guarantees.models import batches, compiled
from tests.guarantees.place import Place, main

STEPS = 6  # an execution of 4 and a remainder of 2


def runs(place: Place, count: int) -> Any:
    """What each run found, and how far the weights are from those of single steps."""
    data = batches(rows=8 * STEPS)
    model = compiled(place.strategy, steps_per_execution=4)
    stepwise = compiled(place.strategy)
    stepwise.set_weights(model.get_weights())
    losses, evaluated, rows = [], [], []
    for run in range(count):
        losses += model.fit(data, verbose=0).history["loss"]
        if run % 10 == 0:
            evaluated.append(model.evaluate(data, verbose=0))
            rows.append(len(model.predict(data, verbose=0)))
    history = stepwise.fit(data, epochs=count, verbose=0).history
    pairs = zip(model.get_weights(), stepwise.get_weights(), strict=True)
    return {
        "losses": losses,
        "evaluated": evaluated,
        "rows": rows,
        "stepwise": history["loss"],
        "difference": max(float(np.abs(a - b).max()) for a, b in pairs),
    }


def hundred(place: Place) -> Any:
    return runs(place, 100)


def ten(place: Place) -> Any:
    return runs(place, 10)


def twenty(place: Place) -> Any:
    return runs(place, 20)


if __name__ == "__main__":
    main(ten, twenty, hundred)
