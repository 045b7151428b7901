"""BatchNormalization over the global batch."""

from __future__ import annotations

import keras


def synchronize_batch_norm(model: keras.Model) -> keras.Model:
    """Makes all BatchNormalization layers use the statistics of the global batch.

    A replica's part of the batch may be too small for good statistics, and results
    would depend on the number of replicas. Synchronised layers sum their moments over
    the replicas in every forward and backward pass (several small collectives each),
    as in one process. Call it before training; weights and file format stay the same.

    Args:
        model: A Keras model; layers inside other layers are found as well.

    Returns:
        The same model.

    References:
        Ioffe, Szegedy, Batch normalization, arXiv:1502.03167, 2015.

    Example:
        >>> model = tfdist.synchronize_batch_norm(keras.applications.ResNet50())
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    # What was traced before used the replica's own statistics.
    model.train_function = model.test_function = model.predict_function = None
    return model
