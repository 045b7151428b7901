"""Fewer bytes for the same gradient: compressors, and what runs them.

Pure functions of tensors, without a strategy or Horovod; `tfdist.callbacks` puts them
into training.
"""

from tfdist.compression.bf16 import BF16 as BF16
from tfdist.compression.compressor import Compressor as Compressor
from tfdist.compression.fp16 import FP16 as FP16
from tfdist.compression.fused import Fused as Fused
from tfdist.compression.fused import Slot as Slot
from tfdist.compression.int8 import Int8 as Int8
from tfdist.compression.none import NoCompression as NoCompression
from tfdist.compression.powersgd import PowerSGD as PowerSGD
from tfdist.compression.randomk import RandomK as RandomK
from tfdist.compression.registry import deserialize as deserialize
from tfdist.compression.registry import get as get
from tfdist.compression.registry import names as names
from tfdist.compression.registry import register as register
from tfdist.compression.registry import serialize as serialize
from tfdist.compression.residuals import residuals_for as residuals_for
from tfdist.compression.rounds import Exchange as Exchange
from tfdist.compression.rounds import received as received
from tfdist.compression.sign import Sign as Sign
from tfdist.compression.topk import TopK as TopK

__all__ = [
    "BF16",
    "FP16",
    "Compressor",
    "Exchange",
    "Fused",
    "Int8",
    "NoCompression",
    "PowerSGD",
    "RandomK",
    "Sign",
    "Slot",
    "TopK",
    "deserialize",
    "get",
    "names",
    "received",
    "register",
    "serialize",
    "residuals_for",
]
