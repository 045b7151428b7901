"""What gradient compression tells its user, once for all ranks."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from tfdist import cluster, compression
from tfdist.gradients import keras_names
from tfdist.gradients.reduction import Kind

_logger = logging.getLogger("tfdist")
# They divide by a running second moment, which the compressor's error does not fit.
_ADAPTIVE = {
    *("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb"),
    *("Nadam", "RMSprop", "ScheduleFreeAdamW"),
}


@contextlib.contextmanager
def told_by_chief() -> Iterator[None]:
    """Keeps the other ranks from warning of the same."""
    with warnings.catch_warnings():
        if not cluster.is_chief():
            warnings.simplefilter("ignore")
        yield


def warn_of_adaptive_optimizer(
    optimizer: Any, compressor: compression.Compressor
) -> None:
    """Warns of what no theory covers: a lossy compressor under Adam and its like.

    Args:
        optimizer: What the compressed sums are given to.
        compressor: The compressor.
    """
    kinds = type(keras_names.innermost(optimizer)).__mro__
    name = next((kind.__name__ for kind in kinds if kind.__name__ in _ADAPTIVE), "")
    if not name or not compressor.feedback:  # rounded to 16 bits, say
        return
    with told_by_chief():
        warnings.warn(
            f"GradientCompression with {name}: no theory covers error feedback "
            "under an optimizer that divides by a second moment, and accuracy "
            "may suffer (with 1 bit it diverges; Tang et al., 1-bit Adam, 2021). "
            'HINT: Compare with compressor="none", or use SGD with momentum.',
            stacklevel=3,
        )


def say_what_stays(kinds: Sequence[Kind], fused: compression.Fused) -> None:
    """Names the sparse gradients, which are not compressed; and says if none is.

    Args:
        kinds: All gradients.
        fused: What compresses the dense ones, some or none of them.
    """
    if not cluster.is_chief():
        return
    plain = isinstance(fused.compressor, compression.NoCompression)
    if fused.slots and not fused.taken and not plain:
        _logger.warning(
            "GradientCompression compresses nothing: none of the %d dense gradients is "
            "large enough for %s and min_size. HINT: Leave it out.",
            len(fused.slots),
            fused.compressor,
        )
    sparse = [kind.path for kind in kinds if kind.sparse]
    if sparse:
        _logger.warning(
            "GradientCompression sends the sparse gradients of %s as they are.",
            ", ".join(sparse),
        )


def say_what_is_left(own: bool) -> None:
    """Tells what becomes of the residuals of several replicas where one goes on.

    Args:
        own: Whether they belong to the gradients of the model's own weights.
    """
    _logger.warning(
        "GradientCompression: one replica sends nothing; what several have not sent "
        "yet (their residuals) %s.",
        "goes into its first step"
        if own
        else "is left out: it belongs to the outer optimizer of LocalSGD",
    )
