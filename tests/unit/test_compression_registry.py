"""Compressors by name, as data, and what is refused."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from tfdist import compression
from tfdist.compression import registry
from tfdist.compression.compressor import settle_feedback
from tfdist.compression.fused import Fused, Slot

NAMES = ["none", "fp16", "bf16", "powersgd", "randomk", "topk", "int8", "sign"]
KERNEL = Slot("dense/kernel", (64, 64), tf.float32)


def test_the_registry_holds_the_documented_names():
    assert compression.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_compressor_survives_json(name):
    compressor = compression.get(name)
    data = json.loads(json.dumps(compression.serialize(compressor)))
    assert compression.deserialize(data) == compressor
    assert compression.get(compressor) is compressor


def test_parameters_survive_json():
    compressor = compression.PowerSGD(rank=7, warm_start=False, wire="float16")
    data = json.loads(json.dumps(compression.serialize(compressor)))
    assert compression.deserialize(data) == compressor
    assert compression.deserialize(data) != compression.PowerSGD()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: compression.get("powersdg"), "Did you mean 'powersgd'"),
        (lambda: compression.get("zzz"), "Choose from"),
        (lambda: compression.get("powersgd", rnak=2), "Did you mean 'rank'"),
        (lambda: compression.get("fp16", rank=2), "no parameter"),
        (lambda: compression.PowerSGD(rank=0), "Received: 0"),
        (lambda: compression.PowerSGD(rank=2.5), "Received: 2.5"),
        (lambda: compression.PowerSGD(rank=True), "integer"),
        (lambda: compression.PowerSGD(min_compression_rate=0), "above 0"),
        (lambda: compression.PowerSGD(min_compression_rate="2"), "above 0"),
        (lambda: compression.PowerSGD(min_compression_rate=True), "above 0"),
        (lambda: compression.PowerSGD(warm_start="no"), "True or False"),
        (lambda: compression.PowerSGD(alternate=True, warm_start=False), "turns"),
        (lambda: compression.PowerSGD(wire="bfloat16"), "cannot sum bfloat16"),
        (lambda: compression.RandomK(ratio=0), "at most 1"),
        (lambda: compression.RandomK(ratio=1.5), "at most 1"),
        (lambda: compression.RandomK(scaled=1), "True or False"),
        (lambda: compression.TopK(ratio=float("nan")), "at most 1"),
        (lambda: compression.TopK(ratio="1%"), "at most 1"),
        (lambda: compression.Int8(block=0), "multiple of 4"),
        (lambda: compression.Int8(block=30), "multiple of 4"),
        (lambda: compression.Int8(block=254**2), "multiple of 4"),
        (lambda: compression.Int8(stochastic="no"), "True or False"),
        (lambda: settle_feedback(compression.Sign(), "on"), "auto"),
    ],
)
def test_a_wrong_value_is_refused_with_a_hint(call, words):
    with pytest.raises(ValueError, match=rf"{re.escape(words)}(.|\n)*") as caught:
        call()
    assert "HINT: " in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: compression.get(compression.Sign),
        lambda: compression.get(None),
        lambda: compression.get(compression.Sign(), block=4),
    ],
)
def test_a_wrong_kind_is_refused_with_a_hint(call):
    with pytest.raises(TypeError, match="HINT: "):
        call()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("feedback", [True, False, "auto"])
def test_unsound_pairs_are_refused(name, feedback):
    compressor = compression.get(name)
    unsound = (feedback is True and not compressor.contractive) or (
        feedback is False and compressor.needs_feedback
    )
    if unsound:
        with pytest.raises(ValueError, match=r"contraction|converge(.|\n)*HINT"):
            Fused(compressor, [KERNEL], 2, error_feedback=feedback)
    else:
        fused = Fused(compressor, [KERNEL], 2, error_feedback=feedback)
        assert fused.error_feedback == (
            compressor.feedback if feedback == "auto" else feedback
        )


def test_a_scaled_sparsifier_is_no_contraction():
    with pytest.raises(ValueError, match="contraction"):
        Fused(compression.RandomK(scaled=True), [KERNEL], 2, error_feedback=True)
    assert not Fused(compression.RandomK(scaled=True), [KERNEL], 2).error_feedback


def test_top_k_warns_where_it_cannot_pay():
    Fused(compression.TopK(0.24), [KERNEL], 4)
    with pytest.warns(UserWarning, match=r"4 ranks(.|\n)*HINT: Use a ratio below 1/4"):
        Fused(compression.TopK(0.25), [KERNEL], 4)


def test_a_gather_warns_where_it_cannot_pay():
    Fused(compression.BF16(), [KERNEL], 3)
    Fused(compression.BF16(), [KERNEL], 4, has_all_to_all=True)
    with pytest.warns(UserWarning, match="without compression"):
        Fused(compression.BF16(), [KERNEL], 4)


def test_a_compressor_of_ones_own(monkeypatch):
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))

    class Mine(compression.NoCompression):
        name = "mine"

    class Impostor(compression.NoCompression):
        name = "sign"

    assert compression.register(Mine) is Mine
    assert isinstance(compression.get("mine"), Mine)
    with pytest.raises(ValueError, match="name of its own"):
        compression.register(Impostor)


def test_an_unfinished_compressor_cannot_be_made():
    class Unfinished(compression.Compressor):
        def rounds(self, items, place):
            yield from ()
            return []

    with pytest.raises(TypeError, match="payload"):
        Unfinished()


def test_the_fingerprint_tells_settings_apart():
    def fingerprint(compressor, slots=(KERNEL,), **options):
        return Fused(compressor, slots, 2, **options).fingerprint()

    same = fingerprint(compression.PowerSGD(2))
    assert same == fingerprint(compression.PowerSGD(2))
    others = [
        fingerprint(compression.PowerSGD(1)),
        fingerprint(compression.RandomK()),
        fingerprint(compression.PowerSGD(2), seed=1),
        fingerprint(compression.PowerSGD(2), error_feedback=False),
        fingerprint(compression.PowerSGD(2), [KERNEL._replace(path="other")]),
    ]
    assert len({same, *others}) == 6


def test_repeated_paths_keep_residuals_apart():
    fused = Fused(compression.Sign(), [KERNEL, KERNEL], 2)
    residuals = [name for name in fused.init() if name.startswith("residual/")]
    assert residuals == ["residual/dense/kernel", "residual/dense/kernel#2"]


def test_draws_leave_the_global_generators_alone():
    tf.random.set_seed(1)
    before = tf.random.normal([3]).numpy()
    tf.random.set_seed(1)
    Fused(compression.PowerSGD(2), [KERNEL], 2).init()
    np.testing.assert_array_equal(tf.random.normal([3]).numpy(), before)
