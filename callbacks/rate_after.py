"""How the learning rate falls once it is warmed up."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import tensorflow as tf

from tfdist.errors import explain

Fall = Callable[[tf.Tensor], tf.Tensor]  # step -> factor of the rate; float64


class Lengths(NamedTuple):
    """The steps of a training, as far as they are known."""

    warmup: int
    epoch: int | None  # steps of one epoch
    total: int | None  # steps of all epochs


@dataclass(frozen=True)
class After(ABC):
    """One way for the rate to fall; its fields are the user's parameters."""

    @abstractmethod
    def over(self, lengths: Lengths) -> Fall:
        """Returns the factor of the rate for each step from the warm-up's end on.

        Raises:
            ValueError: The parameters do not fit the lengths.
        """

    def parameters(self) -> dict[str, Any]:
        """Returns the fields that differ from their defaults, as plain data."""
        defaults = {field.name: field.default for field in fields(self)}
        given = asdict(self)
        return {name: v for name, v in given.items() if v != defaults[name]}


@dataclass(frozen=True)
class Constant(After):
    """The rate stays."""

    def over(self, lengths: Lengths) -> Fall:
        """See `After`."""
        del lengths
        return tf.ones_like


@dataclass(frozen=True)
class Polynomial(After):
    """Falls like a power of what is left; `power=1.0` is a straight line.

    Args:
        epochs: When the fall ends, counted from the start of training; by default
            with the last epoch.
        steps: The same in steps.
        final: The part of the scaled rate that is left in the end.
        power: The power.
    """

    epochs: float | None = None
    steps: int | None = None
    final: float = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        _refuse_both(self.epochs, self.steps)
        for name, end in (("epochs", self.epochs), ("steps", self.steps)):
            _check(name, end, end is None or _is_number(end), "a number")
        is_part = _is_number(self.final) and 0.0 <= self.final <= 1.0
        _check("final", self.final, is_part, "a number from 0 to 1")
        _check("power", self.power, _is_positive(self.power), "a number above 0")

    def over(self, lengths: Lengths) -> Fall:
        """See `After`."""
        begin, end = float(lengths.warmup), float(_end_of(self, lengths))

        def factor(step: tf.Tensor) -> tf.Tensor:
            left = 1.0 - tf.clip_by_value((step - begin) / (end - begin), 0.0, 1.0)
            return self.final + (1.0 - self.final) * self.shape(left)

        return factor

    def shape(self, left: tf.Tensor) -> tf.Tensor:
        """Returns the factor for what is left of the fall, from 1 to 0."""
        return left**self.power


@dataclass(frozen=True)
class Cosine(Polynomial):
    """Falls along half a cosine (Loshchilov, Hutter, SGDR, 2017).

    Args:
        epochs: See `Polynomial`.
        steps: See `Polynomial`.
        final: See `Polynomial`.
        power: Of the cosine.
    """

    def shape(self, left: tf.Tensor) -> tf.Tensor:
        """See `Polynomial`."""
        return ((1.0 - tf.cos(math.pi * left)) / 2.0) ** self.power


@dataclass(frozen=True)
class Step(After):
    """Multiplied by a factor at some points (Goyal et al., 2017).

    Args:
        epochs: The points, counted from the start of training.
        steps: The same in steps.
        factor: The factor.
    """

    epochs: Sequence[float] | None = None
    steps: Sequence[int] | None = None
    factor: float = 0.1

    def __post_init__(self) -> None:
        _refuse_both(self.epochs, self.steps)
        points = self.steps if self.epochs is None else self.epochs
        known = isinstance(points, list | tuple) and all(_is_number(p) for p in points)
        _check(
            "epochs", points, bool(known and points), "a list of epochs, or of steps"
        )
        _check("factor", self.factor, _is_positive(self.factor), "a number above 0")

    def over(self, lengths: Lengths) -> Fall:
        """See `After`."""
        if self.steps is not None:
            points = [float(step) for step in self.steps]
        else:
            points = [_in_steps(epoch, lengths) for epoch in self.epochs or ()]
        if min(points) < lengths.warmup:
            raise _too_early(f"a fall at step {min(points):g}", lengths.warmup)

        def factor(step: tf.Tensor) -> tf.Tensor:
            passed = tf.add_n([tf.cast(step >= p, step.dtype) for p in points])
            return tf.cast(self.factor, step.dtype) ** passed

        return factor


_KINDS: dict[str, type[After]] = {
    "constant": Constant,
    "cosine": Cosine,
    "step": Step,
    "polynomial": Polynomial,
}


def after_of(name: str, parameters: dict[str, Any]) -> After:
    """Returns the fall of this name.

    Raises:
        ValueError: Unknown name or parameter, or a parameter out of range.
    """
    if not isinstance(name, str) or name not in _KINDS:
        raise ValueError(
            explain(
                "There is no such way for the learning rate to fall",
                received=f"after={name!r}",
                expected=", ".join(map(repr, _KINDS)),
                hint='Leave after out to keep the rate, or pass after="cosine".',
            )
        )
    kind = _KINDS[name]
    known = [field.name for field in fields(kind)]
    if unknown := set(parameters) - set(known):
        raise ValueError(
            explain(
                f"after={name!r} has no such parameter",
                received=", ".join(sorted(unknown)),
                expected=", ".join(known) or "none",
                hint="Check the spelling, and which `after` it belongs to.",
            )
        )
    return kind(**parameters)


def steps_of(epochs: float, course_epoch: int) -> int:
    """Returns the number of whole steps in some epochs."""
    return round(epochs * course_epoch)


def _end_of(after: Polynomial, lengths: Lengths) -> int:
    """Returns the step at which a fall ends."""
    if after.steps is not None:
        end = after.steps
    elif after.epochs is not None:
        end = _in_steps(after.epochs, lengths)
    elif lengths.total is not None:
        end = lengths.total
    else:
        raise _unknown_length("the end of training")
    if end <= lengths.warmup:
        raise _too_early(f"the fall ends at step {end}", lengths.warmup)
    return end


def _in_steps(epochs: float, lengths: Lengths) -> int:
    if lengths.epoch is None:
        raise _unknown_length(f"{epochs:g} epochs")
    return steps_of(epochs, lengths.epoch)


def _unknown_length(what: str) -> ValueError:
    return ValueError(
        explain(
            "The learning rate's fall is counted in epochs of unknown length",
            received=f"{what}, and data whose number of batches is not known",
            expected="a number of steps",
            hint="Pass steps=... instead, or steps_per_epoch to fit.",
        )
    )


def _too_early(what: str, warmup: int) -> ValueError:
    return ValueError(
        explain(
            "The learning rate falls before it is warmed up",
            received=f"{what}, a warm-up of {warmup} steps",
            expected="a fall after the warm-up",
            hint="Pass a shorter warm-up (warmup_epochs, warmup_steps), or a later "
            "fall (epochs, steps).",
        )
    )


def _refuse_both(epochs: object, steps: object) -> None:
    if epochs is not None and steps is not None:
        raise ValueError(
            explain(
                "The fall of the learning rate is given twice",
                received=f"epochs={epochs!r} and steps={steps!r}",
                expected="one of them",
                hint="Leave steps out.",
            )
        )


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _check(name: str, value: object, is_right: bool, expected: str) -> None:
    if not is_right:
        raise ValueError(
            explain(
                f"Wrong {name} of the learning rate's fall",
                received=repr(value),
                expected=expected,
                hint=f"Leave {name} out to get its default.",
            )
        )
