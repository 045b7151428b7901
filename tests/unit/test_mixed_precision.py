"""MixedPrecision in one process: which layers change, the scale, what is refused."""

import contextlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tests.parallel.training import regression
from tfdist.callbacks import (
    LearningRateScaling,
    MixedPrecision,
    emulation,
    layer_policies,
)
from tfdist.callbacks.loss_scale import Advice
from tfdist.callbacks.precision_plan import refuse_unreachable, stage_at, stages_of
from tfdist.gradients.attach import attach, path_of

layers, policies = keras.layers, keras.dtype_policies
PARAMS = {"epochs": 10, "steps": 4}


@pytest.fixture(autouse=True)
def global_policy():
    yield
    keras.config.set_dtype_policy("float32")


def perceptron(*between):
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(6, activation="tanh", name="first"),
            *between,
            layers.Dense(1, name="last"),
        ]
    )


def compiled(model=None, optimizer=None, **options):
    keras.utils.set_random_seed(1)
    model = model or perceptron()
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", **options)
    return model


def fit(model, *callbacks, **options):
    options = {"epochs": 2, "batch_size": 16, "verbose": 0, "shuffle": False} | options
    return model.fit(*regression(), callbacks=list(callbacks), **options).history


def computes_in(model):
    return {
        layer.name: layer.compute_dtype
        for layer in model._flatten_layers()
        if not isinstance(layer, layers.InputLayer)
    }


@pytest.mark.parametrize(
    "policy",
    [
        "mixed_bfloat16",
        keras.DTypePolicy("mixed_float16"),
        policies.DTypePolicyMap("mixed_float16", {".*last": "float32"}),
        policies.DTypePolicyMap(),
        [("mixed_bfloat16", 0), ("float32", 0.9)],
    ],
)
def test_configuration_round_trip(policy):
    if isinstance(policy, policies.DTypePolicyMap):
        policy[".*other"] = keras.DTypePolicy("mixed_bfloat16")
    precision = MixedPrecision(policy, keep_float32=["auto", "first"], growth_steps=7)
    config = json.loads(json.dumps(precision.get_config()))
    again = MixedPrecision.from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config
    if isinstance(policy, policies.DTypePolicyMap):
        (stage,) = again.stages
        assert stage.policy["x/other"].name == "mixed_bfloat16"
        assert policy["x/other"].name == "mixed_bfloat16"  # the user's own is intact
        assert stage.policy.default_policy.name == policy.default_policy.name


@pytest.mark.parametrize(
    ("arguments", "excerpt"),
    [
        ({"policy": "mixed_flaot16"}, "Did you mean 'mixed_float16'"),
        ({"policy": "float16"}, "weights stay float32"),
        ({"policy": None}, "no such policy"),
        ({"policy": 16}, "no such policy"),
        ({"policy": policies.DTypePolicyMap("float32", {"a": "int8"})}, "'int8'"),
        ({"policy": []}, "rise from 0"),
        ({"policy": [("float32", 0.5)]}, "rise from 0"),
        ({"policy": [("float32", 0), ("mixed_float16", 1.5)]}, "rise from 0"),
        ({"policy": [("float32", 0), ("mixed_float16", 0)]}, "rise from 0"),
        ({"policy": [("float32", 0), "mixed_float16"]}, "rise from 0"),
        ({"loss_scale": -1}, "-1"),
        ({"loss_scale": 0}, "0"),
        ({"loss_scale": "static"}, "'static'"),
        ({"loss_scale": float("nan")}, "nan"),
        ({"initial_scale": -2.0}, "initial_scale"),
        ({"initial_scale": 0}, "initial_scale"),
        ({"initial_scale": 1e39}, "<= 1.70141e+38"),
        ({"loss_scale": 1e39}, '<= 1.70141e+38, or "dynamic"'),
        ({"growth_steps": 0}, "growth_steps"),
        ({"growth_steps": 2**31}, "from 1 to 2147483646"),
        ({"keep_float32": "last"}, "keep_float32=['auto', 'last']"),
        ({"keep_float32": [1]}, "keep_float32"),
    ],
)
def test_wrong_arguments(arguments, excerpt):
    with pytest.raises(ValueError, match=r"Received: (.|\n)*HINT: ") as error:
        MixedPrecision(**{"policy": "mixed_float16"} | arguments)
    assert excerpt in str(error.value)


def test_stages():
    stages = stages_of(
        [("mixed_bfloat16", 0), ("mixed_float16", 0.5), ("float32", 0.9)]
    )
    at = [
        stage_at(stages, epoch, step, PARAMS) for epoch in range(10) for step in (0, 2)
    ]
    assert at == [0] * 10 + [1] * 8 + [2] * 2
    # Within an epoch; where its length is not known, from the next one on.
    two = stages_of([("mixed_bfloat16", 0), ("float32", 0.6)])
    known, unknown = {"epochs": 1, "steps": 10}, {"epochs": 3, "steps": None}
    assert [stage_at(two, 0, step, known) for step in (5, 6, 9)] == [0, 1, 1]
    assert [stage_at(two, epoch, 5, unknown) for epoch in range(3)] == [0, 0, 1]
    refuse_unreachable(two, unknown)
    with pytest.raises(ValueError, match=r"never begin(.|\n)*steps_per_epoch"):
        refuse_unreachable(two, unknown | {"epochs": 1})


def test_what_stays_float32():
    inputs = keras.Input((4, 8))
    found = layers.Normalization(mean=0.0, variance=1.0, name="whitened")(inputs)
    found = layers.Dense(8, name="dense")(found)
    found = layers.BatchNormalization(name="batch")(found)
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    found = attention(found, found)
    gate = layers.Dense(8, activation="softmax", name="gate")(found)
    found = layers.Flatten(name="flat")(found * gate)
    head = keras.Sequential(
        [layers.Dense(3, name="hidden"), layers.Dense(2, name="out")]
    )
    model = keras.Model(inputs, keras.ops.softmax(head(found) / 2.0))
    wanted = layer_policies.policies_of(
        model, keras.DTypePolicy("mixed_float16"), "auto"
    )
    names = {layer.name for layer, policy in wanted if policy.name == "float32"}
    assert names == {"whitened", "gate", "out", attention._softmax.name}
    wanted = layer_policies.policies_of(model, keras.DTypePolicy("mixed_float16"), [])
    assert {policy.name for _, policy in wanted} == {"mixed_float16"}
    asked = layer_policies.policies_of(
        model, keras.DTypePolicy("mixed_float16"), ["auto", "attention"]
    )
    kept = {layer.name for layer, policy in asked if policy.name == "float32"}
    assert kept == names | {layer.name for layer in attention._flatten_layers()}
    mapped = policies.DTypePolicyMap("mixed_float16", {".*out": "mixed_bfloat16"})
    (stage,) = stages_of(mapped)
    found = layer_policies.policies_of(model, stage.policy, "auto")
    wanted = {layer.name: policy.name for layer, policy in found}
    assert wanted["out"] == "mixed_bfloat16"  # asked for, so not kept
    assert wanted["gate"] == "float32" and wanted["dense"] == "mixed_float16"


def test_a_built_model_trains_in_16_bits_with_float32_weights():
    model = compiled()
    plain = fit(compiled())
    fit(model, epochs=1)  # traced in float32 before
    model.set_weights(compiled().get_weights())
    history = fit(model, MixedPrecision("mixed_bfloat16"))
    assert computes_in(model)["first"] == "bfloat16"
    assert computes_in(model)["last"] == "float32"
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert "loss_scale" not in history
    assert not isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    np.testing.assert_allclose(history["loss"], plain["loss"], rtol=2e-2)
    assert history["loss"] != plain["loss"], "nothing was computed in 16 bits"
    inputs, targets = regression()
    half, weights = model.predict(inputs, verbose=0), model.get_weights()
    fit(model, MixedPrecision("float32"), epochs=1)
    model.set_weights(weights)
    assert not np.array_equal(half, model.predict(inputs, verbose=0))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_16_bit_output(policy):
    model = compiled(metrics=["mae"])
    fit(model, MixedPrecision(policy, keep_float32=[]), validation_data=regression())
    inputs, targets = regression()
    outputs = model.predict(inputs, verbose=0)
    assert str(outputs.dtype) == policy.removeprefix("mixed_")
    logs = model.evaluate(inputs, targets, verbose=0, return_dict=True)
    expected = np.abs(outputs.astype("float32") - targets).mean()
    assert logs["mae"] == pytest.approx(expected, rel=1e-2)


def test_float16_is_scaled_exactly_once(tmp_path):
    """Whether `compile` wrapped or not; a double unscaling would leave the weights."""
    plain, ours = compiled(), compiled()
    fit(plain)
    history = fit(ours, MixedPrecision("mixed_float16", growth_steps=3))
    assert history["loss_scale"] == [2.0**16, 2.0**17]
    assert history["skipped_steps"] == [0, 0]
    keras.config.set_dtype_policy("mixed_float16")
    wrapped = compiled()
    assert isinstance(wrapped.optimizer, keras.optimizers.LossScaleOptimizer)
    fit(wrapped, MixedPrecision("mixed_float16"))
    keras.config.set_dtype_policy("float32")
    unwrapped = compiled(auto_scale_loss=False)
    fit(unwrapped, MixedPrecision("mixed_float16", loss_scale=1024))
    assert unwrapped.optimizer.dynamic_scale.numpy() == 1024
    assert computes_in(wrapped)["last"] == "float32"
    start = compiled().get_weights()
    moved = np.abs(plain.get_weights()[0] - start[0]).max()
    for model in (ours, wrapped, unwrapped):
        difference = np.abs(model.get_weights()[0] - plain.get_weights()[0]).max()
        assert difference < 2e-2 * moved
    ours.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, keras.optimizers.LossScaleOptimizer)
    assert loaded.optimizer.dynamic_scale.numpy() == 2.0**17
    pairs = zip(loaded.optimizer.variables, ours.optimizer.variables, strict=True)
    assert all(one.numpy() == other.numpy() for one, other in list(pairs)[:4])
    assert computes_in(loaded)["first"] == "float16"


@pytest.mark.parametrize(
    "make",
    [
        lambda scaler, sgd: scaler(scaler(sgd(0.1))),
        lambda scaler, sgd: scaler(sgd(0.1), name="outer"),
        lambda scaler, sgd: sgd(0.1, loss_scale_factor=256.0),
    ],
    ids=["twice", "inside", "factor"],
)
def test_two_scales_are_refused(make):
    optimizer = make(keras.optimizers.LossScaleOptimizer, keras.optimizers.SGD)
    if optimizer.name == "outer":
        optimizer.inner_optimizer.loss_scale_factor = 256.0
    model = compiled(optimizer=optimizer)
    with pytest.raises(ValueError, match=r"two loss scales(.|\n)*HINT"):
        fit(model, MixedPrecision("mixed_float16"))


class OwnStep(keras.Model):
    """Trains as Keras does, and scales the loss if told so."""

    scales = True

    def train_step(self, data):
        inputs, targets = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=inputs, y=targets, y_pred=self(inputs))
            if self.scales:
                loss = self.optimizer.scale_loss(loss)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def test_a_train_step_that_forgets_the_scale_is_refused():
    moved = []
    for scales in (True, False):
        inner = perceptron()
        model = compiled(OwnStep(inner.inputs, inner.outputs))
        model.scales, start = scales, model.get_weights()[0]
        refused = pytest.raises(ValueError, match=r"loss scale(.|\n)*HINT")
        with contextlib.nullcontext() if scales else refused:
            fit(model, MixedPrecision("mixed_float16"))
        assert "scale_loss" not in vars(model.optimizer)
        moved.append(np.abs(model.get_weights()[0] - start).max())
    assert moved[0] > 0.01 and moved[1] == 0


def test_an_overflow_is_skipped_counted_and_explained(caplog):
    inputs, targets = regression()
    inputs[16:32] = 3e4  # the second batch: its scaled gradient leaves float16
    model = compiled(keras.Sequential([keras.Input((8,)), layers.Dense(1)]))
    precision = MixedPrecision("mixed_float16", keep_float32=[], initial_scale=4096.0)
    history = model.fit(
        inputs, targets, batch_size=16, shuffle=False, verbose=0, epochs=2,
        callbacks=[precision],
    ).history  # fmt: skip
    assert history["skipped_steps"] == [1, 1]
    assert history["loss_scale"] == [2048.0, 1024.0]
    assert caplog.text.count("1 of 4 steps") == 1
    state = precision.get_state()
    scale = {"loss_scale": 1024.0, "counter": 2, "skipped_steps": 2}
    assert scale.items() <= state.items()
    resumed = compiled(keras.Sequential([keras.Input((8,)), layers.Dense(1)]))
    again = MixedPrecision.from_config(precision.get_config())
    again.set_state([json.loads(json.dumps(state))])
    history = resumed.fit(
        *regression(), batch_size=16, verbose=0, initial_epoch=2, epochs=3,
        callbacks=[again],
    ).history  # fmt: skip
    assert history["loss_scale"] == [1024.0]
    assert scale.items() <= {**again.get_state(), "counter": 2}.items()
    assert again.get_state()["counter"] == 6


@pytest.mark.parametrize("steps", [None, 5])
def test_executions_that_do_not_fill_an_epoch_are_no_skipped_steps(steps, caplog):
    """Keras takes 7 batches in executions of 4 and 3, but 8 where it is asked for 5."""
    model = compiled(steps_per_execution=4)
    inputs, targets = regression()
    data = tf.data.Dataset.from_tensor_slices((inputs[:56], targets[:56])).batch(8)
    data = data.repeat() if steps else data
    options = {"steps_per_epoch": steps, "epochs": 2, "verbose": 0, "shuffle": False}
    history = model.fit(data, callbacks=[MixedPrecision("mixed_float16")], **options)
    assert history.history["skipped_steps"] == [0, 0]
    assert int(model.optimizer.iterations) == (16 if steps else 14)
    assert "were skipped" not in caplog.text


def test_a_fixed_scale_stays_where_steps_are_skipped():
    inputs, targets = regression()
    inputs[16:32] = np.nan
    model = compiled()
    precision = MixedPrecision("mixed_float16", loss_scale=64.0)
    history = model.fit(
        inputs, targets, batch_size=16, verbose=0, callbacks=[precision], shuffle=False
    ).history
    assert history["loss_scale"] == [64.0]
    assert history["skipped_steps"] == [1]
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_advice(caplog):
    advice = Advice()
    advice.consider(2, 10, 2.0, held=False)
    assert caplog.text == ""
    advice.consider(3, 10, 1.0, held=False)
    advice.consider(3, 10, 0.5, held=False)
    assert caplog.text.count("fallen to 1:") == caplog.text.count("3 of 10 steps") == 1


def test_a_schedule_switches_with_one_retrace():
    traces = []

    class Noting(keras.layers.Layer):
        def call(self, inputs):
            traces.append(inputs.dtype.name if hasattr(inputs.dtype, "name") else "")
            return inputs

    model = compiled(perceptron(Noting()))
    traces.clear()
    precision = MixedPrecision([("mixed_float16", 0), ("float32", 0.75)])
    history = fit(model, precision)  # 8 steps: the last two in float32
    assert [name for name in traces if name] == ["float16", "float32"]
    assert history["loss_scale"] == [2.0**15, 1.0]
    assert set(computes_in(model).values()) == {"float32"}
    again = fit(model, precision, epochs=1)
    assert again["loss_scale"] == [1.0]  # of an epoch whose last step is in float32
    again = fit(model, MixedPrecision("mixed_float16"), epochs=1)
    assert again["loss_scale"] == [2.0**15]


def test_resumed_in_the_later_stage():
    model = compiled()
    stages = [("mixed_bfloat16", 0), ("float32", 0.5)]
    fit(model, MixedPrecision(stages), initial_epoch=1)
    reference = compiled()
    fit(reference, initial_epoch=1)
    for one, other in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_global_policy_is_checked():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = compiled(perceptron(layers.Dense(3, dtype="float32", name="own")))
    fit(model, MixedPrecision("mixed_bfloat16"), epochs=1)
    assert [computes_in(model)[name] for name in ("first", "own", "last")] == [
        "bfloat16",
        "float32",
        "float32",
    ]


def test_what_an_earlier_callback_has_kept_is_not_kept_by_the_next():
    def half(model):
        return {n for n, dtype in computes_in(model).items() if dtype == "bfloat16"}

    for earlier in ("first", "auto"):
        model = compiled()
        fit(model, MixedPrecision("mixed_bfloat16", [earlier]), epochs=1)
        fit(model, MixedPrecision("mixed_bfloat16"), epochs=1)
        assert "first" in half(model) and "last" not in half(model)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = compiled(perceptron(layers.Dense(3, dtype="float32", name="own")))
    fit(model, MixedPrecision("mixed_bfloat16", []), epochs=1)
    assert "own" in half(model)
    fit(model, MixedPrecision("mixed_bfloat16"), epochs=1)
    assert "first" in half(model) and "own" not in half(model)


def test_a_global_map_is_checked():
    own = {".*/own": keras.DTypePolicy("float32")}
    mapped = policies.DTypePolicyMap(keras.DTypePolicy("mixed_bfloat16"), own)
    keras.config.set_dtype_policy(mapped)
    model = compiled(perceptron(layers.Dense(3, name="own")))
    keras.config.set_dtype_policy("float32")
    fit(model, MixedPrecision("mixed_bfloat16"), epochs=1)
    found = computes_in(model)
    assert [found[name] for name in ("first", "own", "last")] == [
        "bfloat16",
        "float32",
        "float32",
    ]
    fit(model, MixedPrecision("float32"), epochs=1)
    assert set(computes_in(model).values()) == {"float32"}
    assert set(mapped) == {".*/own"}  # the user's own is intact


def many_layers():
    inputs = keras.Input((6,), dtype="int32")
    found = layers.Embedding(20, 8)(inputs)
    found = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(found)
    found = found + layers.MultiHeadAttention(2, 4)(found, found)
    found = layers.LayerNormalization()(layers.Conv1D(8, 3, padding="same")(found))
    found = layers.BatchNormalization()(layers.Flatten()(found))
    return keras.Model(inputs, layers.Dense(2)(layers.PReLU()(found)))


def test_changed_layers_compute_as_those_that_were_built_so():
    policy = "mixed_bfloat16"
    model = many_layers()
    keras.config.set_dtype_policy(policy)
    built_so = many_layers()
    built_so.set_weights(model.get_weights())
    tokens = np.arange(48).reshape(8, 6) % 20
    before = model.predict(tokens, verbose=0)
    wanted = layer_policies.policies_of(model, keras.DTypePolicy(policy), [])
    layer_policies.assign(wanted)
    model.predict_function = None
    outputs = model.predict(tokens, verbose=0)
    assert not np.array_equal(outputs, before)
    np.testing.assert_array_equal(outputs, built_so.predict(tokens, verbose=0))
    kinds = [type(layer).__name__ for layer, _ in wanted]
    assert {"LSTMCell", "EinsumDense", "Softmax"} <= set(kinds)


@pytest.mark.parametrize("first", [True, False])
def test_with_a_scaled_learning_rate(first):
    def scaling():
        return LearningRateScaling(reference_batch_size=4, warmup_epochs=1)

    callbacks = [MixedPrecision("mixed_float16"), scaling()][:: 1 if first else -1]
    model = compiled()
    history = fit(model, *callbacks, epochs=3)
    assert (
        history["learning_rate"]
        == fit(compiled(), scaling(), epochs=3)["learning_rate"]
    )
    assert history["skipped_steps"] == [0, 0, 0]
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


class Stubborn(layers.Dense):
    @property
    def dtype_policy(self):
        return self._dtype_policy

    @dtype_policy.setter
    def dtype_policy(self, value):
        raise TypeError("only float32 here")


@pytest.mark.parametrize(
    ("make", "precision", "excerpt"),
    [
        (perceptron, {"policy": "mixed_float16", "keep_float32": ["lost"]}, "'last'"),
        (
            perceptron,
            {"policy": policies.DTypePolicyMap("mixed_float16", {"frist": "float32"})},
            "does not have",
        ),
        (
            lambda: perceptron(Stubborn(3, name="stubborn")),
            {"policy": "mixed_float16"},
            "only float32 here",
        ),
        (
            lambda: perceptron(layers.Dense(3, dtype="float64", name="double")),
            {"policy": "mixed_float16"},
            "'double' are not float32",
        ),
        (perceptron, {"policy": "mixed_bfloat16", "loss_scale": 8.0}, "Only float16"),
        (
            lambda: keras.Sequential([layers.Dense(1)]),
            {"policy": "mixed_float16"},
            "needs a model that is built",
        ),
    ],
    ids=["kept", "mapped", "stubborn", "double", "scale", "unbuilt"],
)
def test_refused_before_the_first_step(make, precision, excerpt):
    model = compiled(make())
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"Received: (.|\n)*HINT: ") as error:
        fit(model, MixedPrecision(**precision))
    assert excerpt in str(error.value)
    assert all(map(np.array_equal, before, model.get_weights()))
    assert not {"float16", "bfloat16"} & set(computes_in(model).values())


def test_given_twice():
    precision = MixedPrecision("mixed_bfloat16")
    model = compiled()
    with pytest.raises(ValueError, match="two MixedPrecision"):
        fit(model, precision, MixedPrecision("float32"))
    assert set(computes_in(model).values()) == {"float32"}
    fit(model, precision)
    fit(model, precision)  # but one may be given again


def test_the_output_of_a_subclassed_model_has_to_be_named(caplog):
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.output_layer = layers.Dense(1, name="mine")
            self.hidden_layer = layers.Dense(4)

        def call(self, inputs):
            return self.output_layer(self.hidden_layer(inputs))

    fit(compiled(Mine()), MixedPrecision("mixed_bfloat16"), epochs=1)
    assert caplog.text.count("cannot see which layer of Mine") == 1
    model = compiled(Mine())
    fit(model, MixedPrecision("mixed_bfloat16", ["auto", "mine"]), epochs=1)
    assert model.output_layer.compute_dtype == "float32"
    assert model.hidden_layer.compute_dtype == "bfloat16"
    assert caplog.text.count("cannot see") == 1


def test_a_path_moves_to_the_optimizer_around_its_own():
    inner = keras.optimizers.SGD(0.1, global_clipnorm=0.5)
    tfdist.gradients.attach(inner)
    path = path_of(inner)
    former, outer = (keras.optimizers.LossScaleOptimizer(inner) for _ in range(2))
    for each in (former, inner, former, outer, outer):
        attach(each)
        assert path_of(each) is path and path.optimizer is each
    for left in (former, inner):
        assert not {"apply", "check_finite"} & vars(left).keys()
    variable = keras.Variable(np.ones(2, "f"))
    outer.build([variable])
    outer.apply([keras.ops.array([3.0 * 2.0**15, 4.0 * 2.0**15])], [variable])
    # Unscaled to (3, 4), clipped to (0.3, 0.4), once.
    np.testing.assert_allclose(variable.numpy(), [0.97, 0.96], atol=1e-6)


def test_hardware():
    flags = "processor\t: 0\nflags\t\t: fpu avx512_bf16 avx2\n"
    assert emulation.has_instructions("bfloat16", flags) is True
    assert emulation.has_instructions("float16", flags) is False
    assert emulation.has_instructions("bfloat16", "Features : fp asimd bf16") is True
    assert emulation.has_instructions("bfloat16", "") is None
    assert 0 < emulation.slow_down("bfloat16", repeats=1) < 1e4
