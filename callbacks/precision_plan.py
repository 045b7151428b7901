"""Which policy is in force when: what MixedPrecision is given, checked and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from tfdist.errors import explain, nearest

POLICIES = ("mixed_float16", "mixed_bfloat16", "float32")
HALVES = ("float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A policy, and where in the training it begins."""

    policy: keras.DTypePolicy  # of POLICIES, or a map of them
    start: float = 0.0  # part of the training, from 0 to below 1

    def is_due(self, epoch: int, step: int, params: dict[str, Any]) -> bool:
        """Returns whether a step is in this stage, or in a later one.

        Where the length of an epoch is not known, stages begin with an epoch.

        Args:
            epoch: Counts from 0, also where training is resumed.
            step: Within the epoch.
            params: Keras's `params` of a callback.
        """
        steps = params.get("steps") or 0
        made = epoch * steps + step if steps else epoch
        whole = (params.get("epochs") or 1) * (steps or 1)
        return made >= self.start * whole - 1e-9


def stages_of(policy: Any) -> tuple[Stage, ...]:
    """Returns the stages that a user means.

    Args:
        policy: One policy, or a list of (policy, start).

    Raises:
        ValueError: An unknown policy, or starts that do not rise from 0.
    """
    if not isinstance(policy, list | tuple):
        return (Stage(checked_policy(policy)),)
    pairs: list[Any] = [pair if _is_pair(pair) else (None, None) for pair in policy]
    starts = [start for _, start in pairs]
    rising = (
        bool(pairs)
        and all(_is_part(start) for start in starts)
        and starts[0] == 0
        and starts == sorted(set(starts))
    )
    if not rising:
        raise ValueError(
            explain(
                "The stages of MixedPrecision are pairs of a policy and its start",
                received=repr(policy),
                expected="starts that rise from 0 to below 1, as parts of the training",
                hint='MixedPrecision([("mixed_bfloat16", 0), ("float32", 0.9)])',
            )
        )
    return tuple(Stage(checked_policy(name), float(start)) for name, start in pairs)


def stage_at(
    stages: Sequence[Stage], epoch: int, step: int, params: dict[str, Any]
) -> int:
    """Returns the number of the stage that a step is in; see `Stage.is_due`."""
    due = [n for n, stage in enumerate(stages) if stage.is_due(epoch, step, params)]
    return max(due, default=0)


def checked_policy(policy: Any) -> keras.DTypePolicy:
    """Returns the policy as Keras's object; of a map, a copy.

    Raises:
        ValueError: A policy, or one in a map, is not of POLICIES.
    """
    known = policy
    if not isinstance(policy, str):
        try:
            known = keras.dtype_policies.get(policy) if policy is not None else None
        except (TypeError, ValueError):
            known = None
    if isinstance(known, keras.dtype_policies.DTypePolicyMap):
        # Keras's own `get_config` of a map whose default is open spoils its policies
        # (their names become None), so the default is settled here.
        default = checked_policy(known.default_policy)
        parts = {key: checked_policy(part) for key, part in known.items()}
        return keras.dtype_policies.DTypePolicyMap(default, parts)
    name = known if isinstance(known, str) else getattr(known, "name", None)
    if name in POLICIES:
        return keras.DTypePolicy(name)
    meant = nearest(str(name or policy), POLICIES) or "mixed_bfloat16"
    raise ValueError(
        explain(
            "MixedPrecision knows no such policy",
            received=repr(policy),
            expected=f"{', '.join(map(repr, POLICIES))}, or a DTypePolicyMap of them: "
            "weights stay float32",
            hint=f"Did you mean {meant!r}?",
        )
    )


def written(stages: Sequence[Stage]) -> Any:
    """Returns what `stages_of` turns into these stages again, as plain data."""
    if len(stages) == 1:
        return _written_policy(stages[0].policy)
    return [[_written_policy(stage.policy), stage.start] for stage in stages]


def refuse_unreachable(stages: Sequence[Stage], params: dict[str, Any]) -> None:
    """Raises ValueError if the last stage would never begin."""
    epochs = params.get("epochs") or 1
    last_step = (params.get("steps") or 1) - 1
    if not stages[-1].is_due(epochs - 1, last_step, params):
        raise ValueError(
            explain(
                "The last stage of MixedPrecision would never begin",
                received=f"a start at {stages[-1].start:g} of {epochs} epochs of "
                f"{params.get('steps') or 'unknown'} steps",
                expected="at least one step in it",
                hint="Pass an earlier start, or steps_per_epoch to fit.",
            )
        )


def _written_policy(policy: keras.DTypePolicy) -> Any:
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        return keras.dtype_policies.serialize(policy)
    return policy.name


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2


def _is_part(start: Any) -> bool:
    number = isinstance(start, int | float) and not isinstance(start, bool)
    return number and 0 <= start < 1
