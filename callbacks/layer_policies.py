"""Which policy each layer of a model gets, and how it gets it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from tfdist.errors import explain, nearest
from tfdist.gradients import keras_names

from .precision_plan import HALVES

Maps = keras.dtype_policies.DTypePolicyMap

# They sum exponentials, or squares, or divide by them, in their own precision. The
# other normalisations of Keras compute their statistics in float32 in any case.
_SENSITIVE = tuple(
    getattr(keras.layers, name)
    for name in (
        "AdditiveAttention",
        "Attention",
        "Normalization",
        "RMSNormalization",  # since Keras 3.9
        "Softmax",
        "SpectralNormalization",
        "UnitNormalization",
    )
    if hasattr(keras.layers, name)
)
_SOFTMAXES = (keras.activations.softmax, keras.activations.log_softmax)
# The layers of each model that were float32 in a 16-bit model before it came here.
_own: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Any]] = weakref.WeakKeyDictionary()


def policies_of(
    model: Any, policy: keras.DTypePolicy, keep: str | Sequence[str]
) -> list[tuple[Any, keras.DTypePolicy]]:
    """Returns each layer that computes in floats, with the policy that it gets.

    Args:
        model: A model that is built.
        policy: One for all layers, or a map. What a map names gets what it says.
        keep: What stays float32: see `MixedPrecision`.

    Raises:
        ValueError: A name that no layer has, or weights that are not float32.
    """
    layers = list(_float_layers(model))
    wanted = ["auto"] if keep == "auto" else list(keep)
    kept = _named(layers, [name for name in wanted if name != "auto"])
    own = _own_float32(model, layers)
    if "auto" in wanted:
        kept |= _sensitive(model, layers) | own
    keys = set(policy) if isinstance(policy, Maps) else set()
    result = []
    for layer in layers:
        chosen, key = _looked_up(policy, layer)
        keys.discard(key)
        if key is None and id(layer) in kept:
            chosen = keras.DTypePolicy("float32")
        _refuse_other_weights(layer)
        result.append((layer, chosen))
    if keys:
        paths = [layer.path or layer.name for layer in layers]
        _refuse_unknown("DTypePolicyMap", sorted(keys)[0], paths)
    return result


def assign(policies: Sequence[tuple[Any, keras.DTypePolicy]]) -> bool:
    """Gives the layers their policies; all of them or, on an error, none.

    Returns:
        Whether a layer has changed.

    Raises:
        ValueError: A layer refuses its policy.
    """
    before = []
    for layer, policy in policies:
        if layer.compute_dtype == policy.compute_dtype:
            continue
        before.append((layer, _own_policy(layer)))
        try:
            keras_names.set_policy(layer, policy)
            if layer.compute_dtype != policy.compute_dtype:
                raise ValueError(f"it still computes in {layer.compute_dtype}")
        except Exception as error:
            for changed, own in before:
                if changed is not layer:
                    keras_names.set_policy(changed, own)
            raise ValueError(
                explain(
                    f"Layer {layer.name!r} ({type(layer).__name__}) refuses the policy "
                    f"{policy.name!r}",
                    received=str(error),
                    expected="a layer whose dtype_policy can be set",
                    hint=f"MixedPrecision(..., keep_float32=['auto', {layer.name!r}])",
                )
            ) from error
    return bool(before)


def half_types(policies: Sequence[tuple[Any, keras.DTypePolicy]]) -> set[str]:
    """Returns which 16-bit types these layers compute in."""
    return {policy.compute_dtype for _, policy in policies} & set(HALVES)


def summary(policies: Sequence[tuple[Any, keras.DTypePolicy]]) -> str:
    """Words which layers get which policy, without names, which may differ by rank."""
    names = [policy.name for _, policy in policies]
    usual = max(sorted(set(names)), key=names.count)
    others = {place: name for place, name in enumerate(names) if name != usual}
    return f"{usual} for {len(names)} layers, except {others}"


def output_layers(model: Any) -> list[Any] | None:
    """Returns the layers that compute a model's outputs, with all that they contain.

    Returns:
        None for a subclassed model: what it does last is known to nobody but itself.
    """
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return None
    found: list[Any] = []
    for operation in _producers(outputs):
        inner = output_layers(operation) if isinstance(operation, keras.Model) else []
        if inner is None:
            return None
        found.extend(inner or operation._flatten_layers())
    return found


def _producers(tensors: Sequence[Any]) -> Iterator[Any]:
    """Yields the layers that symbolic tensors come from, past plain operations."""
    for tensor in tensors:
        operation, node, _ = keras_names.history_of(tensor)
        if isinstance(operation, keras.Layer):
            yield operation
        else:
            yield from _producers(operation._inbound_nodes[node].input_tensors)


def _float_layers(model: Any) -> Iterator[Any]:
    for layer in model._flatten_layers():
        is_input = isinstance(layer, keras.layers.InputLayer)
        if not is_input and layer.variable_dtype.startswith(("float", "bfloat")):
            yield layer


def _named(layers: Sequence[Any], names: Sequence[str]) -> set[int]:
    kept = set()
    known = {layer.name for layer in layers} | {layer.path for layer in layers}
    for name in names:
        if name not in known:
            _refuse_unknown("keep_float32", name, [each for each in known if each])
        for layer in layers:
            if name in (layer.name, layer.path):
                kept |= {id(part) for part in layer._flatten_layers()}
    return kept


def _sensitive(model: Any, layers: Sequence[Any]) -> set[int]:
    kept = {id(layer) for layer in output_layers(model) or ()}
    for layer in layers:
        if isinstance(layer, _SENSITIVE) or (
            getattr(layer, "activation", None) in _SOFTMAXES
        ):
            kept.add(id(layer))
    return kept


def _own_float32(model: Any, layers: Sequence[Any]) -> set[int]:
    """Returns the layers that the user has given float32 where their model was not.

    What this module has kept in float32 earlier, for other arguments, is none of them.
    """
    if model not in _own:
        is_half = model.compute_dtype in HALVES
        kept = [each for each in layers if is_half and each.compute_dtype == "float32"]
        _own[model] = weakref.WeakSet(kept)
    return {id(layer) for layer in _own[model]}


def _looked_up(
    policy: keras.DTypePolicy, layer: Any
) -> tuple[keras.DTypePolicy, str | None]:
    """Returns a layer's policy, and the key of the map that names the layer."""
    if not isinstance(policy, Maps):
        return policy, None
    path = layer.path or layer.name
    try:
        chosen = policy[path]
    except ValueError as error:
        raise ValueError(
            explain(
                f"The map has several policies for layer {path!r}",
                received=str(error),
                expected="one key for each layer",
                hint="Write the layer's path itself as a key: it goes first.",
            )
        ) from error
    return chosen, next((key for key in policy if policy[key] is chosen), None)


def _own_policy(layer: Any) -> keras.DTypePolicy:
    return keras.DTypePolicy(
        layer.compute_dtype
        if layer.compute_dtype == layer.variable_dtype
        else f"mixed_{layer.compute_dtype}"
    )


def _refuse_other_weights(layer: Any) -> None:
    if layer.variable_dtype == "float32" and layer.quantization_mode is None:
        return
    raise ValueError(
        explain(
            f"The weights of layer {layer.name!r} are not float32",
            received=f"a layer with the policy {_name_of(layer)!r}",
            expected="float32, mixed_float16 or mixed_bfloat16",
            hint='Build the model with keras.config.set_dtype_policy("float32").',
        )
    )


def _name_of(layer: Any) -> str:
    return str(getattr(layer.dtype_policy, "name", layer.dtype_policy))


def _refuse_unknown(where: str, name: str, known: Sequence[str]) -> None:
    meant = nearest(name, known)
    raise ValueError(
        explain(
            f"{where} names a layer that the model does not have",
            received=repr(name),
            expected="the name or the path of a layer",
            hint=f"Did you mean {meant!r}?" if meant else f"Layers: {known[:20]}",
        )
    )
