"""Asks `tfdist.cluster` who it is, meets at barriers, and shows progress."""

import time
from typing import Any

import keras

from tests.guarantees.models import batches, compiled
from tests.guarantees.place import Place, caught, main
from tfdist import cluster


def _identity() -> dict[str, Any]:
    return {
        "rank": cluster.rank(),
        "size": cluster.size(),
        "local_rank": cluster.local_rank(),
        "is_chief": cluster.is_chief(),
    }


def identity(place: Place) -> Any:
    early = _identity()
    replicas = place.strategy.num_replicas_in_sync
    return {"early": early, "connected": _identity(), "replicas": replicas}


def barrier(place: Place) -> Any:
    """When each rank came to the barrier and when it left; rank 0 comes last."""
    assert place.strategy
    if place.rank == 0:
        time.sleep(1.0)
    came = time.time()
    cluster.barrier("the data are prepared", timeout=60)
    return {"came": came, "left": time.time()}


def progress(place: Place) -> Any:
    """The log shows who printed, also after Keras has forgotten its settings."""
    assert place.strategy
    keras.utils.clear_session(free_memory=False)
    model = compiled(place.strategy)
    model.fit(batches(), epochs=3, validation_data=batches())
    model.evaluate(batches())
    model.predict(batches())
    print("printed by the script", flush=True)
    return {}


def different_barriers(place: Place) -> Any:
    assert place.strategy
    return caught(lambda: cluster.barrier(f"place {place.rank}", timeout=60))


if __name__ == "__main__":
    main(identity, barrier, progress, different_barriers)
