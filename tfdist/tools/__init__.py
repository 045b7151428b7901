"""Helpers for models that train on several replicas."""

from tfdist.tools.batch_norm import synchronize_batch_norm as synchronize_batch_norm
from tfdist.tools.range_test import RangeTest as RangeTest
from tfdist.tools.range_test import lr_range_test as lr_range_test

__all__ = ["RangeTest", "lr_range_test", "synchronize_batch_norm"]
