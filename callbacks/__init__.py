"""Callbacks for training on several replicas, installed as `tfdist.callbacks`."""

from .gradient_compression import GradientCompression as GradientCompression

__all__ = ["GradientCompression"]
