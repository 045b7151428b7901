"""Helpers for models that train on several replicas."""

from tfdist.tools.batch_norm import synchronize_batch_norm as synchronize_batch_norm

__all__ = ["synchronize_batch_norm"]
