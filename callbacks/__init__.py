"""Callbacks for training on several replicas, installed as `tfdist.callbacks`."""

from .gradient_compression import GradientCompression as GradientCompression
from .learning_rate_scaling import LearningRateScaling as LearningRateScaling

__all__ = ["GradientCompression", "LearningRateScaling"]
