"""Keras's `fit`: plain in one process, or under tfdist with or without compression."""

from __future__ import annotations

import contextlib
from typing import Any

from benchmarks.network import models
from benchmarks.network.programs import rank


def main() -> None:
    """Trains until there are no more orders."""
    me = rank.start()
    import tensorflow as tf

    from benchmarks.network.programs import keras_parts
    from benchmarks.network.programs.obedient import Obedient

    batch = models.task(me.model).batch
    scope: Any = contextlib.nullcontext()
    callbacks = []
    inputs, labels = (array.reshape(-1, *array.shape[2:]) for array in me.batches())
    if me.options.get("tfdist"):
        import tfdist

        inputs, labels = models.examples(me.model, me.ranks)
        batch *= me.ranks
        scope = tfdist.strategy("horovod").scope()
    with scope:
        model, loss, optimizer = keras_parts.prepared(me.model)
        model.compile(optimizer, loss)
    facts = keras_parts.facts(me.model, model, me.ranks)
    name, parameters = me.options.get("compressor"), me.options.get("parameters", {})
    if name is not None:
        callbacks.append(
            tfdist.callbacks.GradientCompression(name, start_step=0, **parameters)
        )
        facts["formula"] = facts["sparse"] + compressed_bytes(
            tfdist.compression.get(name, **parameters), model, me.ranks
        )
    dataset = tf.data.Dataset.from_tensor_slices((inputs, labels))
    dataset = dataset.batch(batch, drop_remainder=True).repeat()
    model.fit(
        dataset,
        steps_per_epoch=10**9,
        callbacks=[*callbacks, Obedient(me.orders, facts)],
        shuffle=False,
        verbose=0,
    )


def compressed_bytes(compressor: Any, model: Any, ranks: int) -> float:
    """Returns what each rank sends of dense gradients, by the compressor's formula."""
    from benchmarks.network.programs import keras_parts
    from tfdist.compression import Fused, Slot

    dense, _ = keras_parts.split_variables(model)
    slots = [Slot(v.path, tuple(v.shape), v.dtype) for v in dense]
    return Fused(compressor, slots, ranks, has_all_to_all=True).bytes_on_wire()


if __name__ == "__main__":
    main()
