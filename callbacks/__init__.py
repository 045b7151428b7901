"""Callbacks for training on several replicas, installed as `tfdist.callbacks`."""

from .checkpoint_recovery import CheckpointRecovery as CheckpointRecovery
from .everyday import defaults as defaults
from .gradient_compression import GradientCompression as GradientCompression
from .gradient_noise_scale import GradientNoiseScale as GradientNoiseScale
from .learning_rate_scaling import LearningRateScaling as LearningRateScaling
from .local_sgd import LocalSGD as LocalSGD
from .mixed_precision import MixedPrecision as MixedPrecision
from .replica_consistency import ReplicaConsistency as ReplicaConsistency
from .telemetry import Telemetry as Telemetry

__all__ = [
    "CheckpointRecovery",
    "GradientCompression",
    "GradientNoiseScale",
    "LearningRateScaling",
    "LocalSGD",
    "MixedPrecision",
    "ReplicaConsistency",
    "Telemetry",
    "defaults",
]
