"""Callbacks for training on several replicas, installed as `tfdist.callbacks`."""

from .gradient_compression import GradientCompression as GradientCompression
from .local_sgd import LocalSGD as LocalSGD

__all__ = ["GradientCompression", "LocalSGD"]
