"""Stock Horovod as its documentation ports a Keras script, for the comparison.

`hvd.DistributedOptimizer`, a broadcast, and data sharded by hand. The port happens
inside `compile` and `fit`, so that rows are not written twice. What of Horovod raises
under Keras 3 is left out or repaired, as a patient user would do it, so that the table
shows how it trains:

- BroadcastGlobalVariablesCallback ('Variable' object has no attribute 'ref'): the
  broadcast is done by hand;
- MetricAverageCallback ('keras.backend' has no attribute 'constant'): left out, the
  history is each rank's own;
- DistributedOptimizer.variables ('list' object is not callable): Keras's own.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf


class OwnPart(keras.utils.PyDataset):
    """One rank's part of every batch of another PyDataset."""

    def __init__(self, whole: keras.utils.PyDataset, own_parts: Callable) -> None:
        super().__init__()
        self.whole = whole
        self.own_parts = own_parts

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Any:
        return self.own_parts(self.whole[index])


def use_stock_horovod() -> None:
    """Make `compile` and `fit` in this process do what a user of Horovod writes."""
    import horovod.tensorflow
    import horovod.tensorflow.keras as hvd

    hvd.init()
    compile_model, fit_model = keras.Model.compile, keras.Model.fit

    @functools.wraps(compile_model)
    def compile_with_horovod(
        self: keras.Model, optimizer: Any = "rmsprop", *arguments: Any, **options: Any
    ) -> None:
        optimizer = hvd.DistributedOptimizer(keras.optimizers.get(optimizer))
        type(optimizer).variables = keras.optimizers.Optimizer.variables
        compile_model(self, optimizer, *arguments, **options)

    @functools.wraps(fit_model)
    def fit_with_horovod(
        self: keras.Model, x: Any = None, y: Any = None, **options: Any
    ) -> keras.callbacks.History:
        callbacks = [
            keras.callbacks.LambdaCallback(on_train_begin=lambda logs: broadcast(self)),
            *options.pop("callbacks", ()),
        ]
        if isinstance(x, tf.data.Dataset):
            x = x.map(lambda *batch: own_parts(batch))
        elif isinstance(x, keras.utils.PyDataset):
            x = OwnPart(x, own_parts)
        elif isinstance(x, Iterator):
            x = (own_parts(batch) for batch in x)
        else:
            x, y = own_parts((x, y))
            if "sample_weight" in options:
                options["sample_weight"] = own_part(options["sample_weight"])
            options["batch_size"] = options.get("batch_size", 32) // hvd.size()
        return fit_model(self, x, y, callbacks=callbacks, **options)

    def broadcast(model: keras.Model) -> None:
        horovod.tensorflow.broadcast_variables([v.value for v in model.weights], 0)

    def own_part(array: Any) -> Any:
        return None if array is None else array[hvd.rank() :: hvd.size()]

    def own_parts(batch: Any) -> Any:
        return tf.nest.map_structure(own_part, batch)

    keras.Model.compile = compile_with_horovod
    keras.Model.fit = fit_with_horovod
