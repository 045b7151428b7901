"""Optimizers for large batches that Keras 3 lacks; Lamb is Keras's own."""

from tfdist.optimizers.lars import LARS as LARS

__all__ = ["LARS"]
