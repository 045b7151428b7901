"""Fit, evaluate, predict, metrics and validation."""

import keras
import numpy as np

from tests.parallel.registry import Results, row
from tests.parallel.setting import Setting
from tests.parallel.training import (
    batches,
    binary,
    classes,
    compile_under,
    outcome,
    perceptron,
    regression,
    sgd,
    train,
)


@row("fit, evaluate, predict")
def fit_evaluate_predict(setting: Setting) -> Results:
    return train(setting, evaluate=True, predict=True)


@row("ranks that start from different seeds")
def different_initial_seeds(setting: Setting) -> Results:
    # The first weights must be those of rank 0, which has the reference's seed.
    keras.utils.set_random_seed(100 + setting.rank)
    return train(setting)


@row("ranks that start from different seeds, deferred model")
def different_initial_seeds_deferred(setting: Setting) -> Results:
    keras.utils.set_random_seed(100 + setting.rank)
    return train(
        setting,
        build=lambda: keras.Sequential(
            [keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(1)]
        ),
    )


@row("evaluate and predict before any fit, different seeds")
def evaluate_first(setting: Setting) -> Results:
    keras.utils.set_random_seed(100 + setting.rank)
    model = compile_under(setting, perceptron, sgd, "mse", metrics=["mae"])
    inputs, targets = regression()
    return outcome(setting, model, evaluate=(inputs, targets), predict=inputs)


@row("metrics: accuracy, AUC, precision, MAE")
def metrics_binary(setting: Setting) -> Results:
    return train(
        setting,
        build=lambda: perceptron(activation="sigmoid"),
        loss="binary_crossentropy",
        data=binary(),
        compiled={
            "metrics": lambda: [
                "accuracy",
                keras.metrics.AUC(num_thresholds=20, name="auc"),
                keras.metrics.Precision(name="precision"),
                "mae",
            ]
        },
        evaluate=True,
    )


@row("weighted metrics, sample weights")
def metrics_weighted(setting: Setting) -> Results:
    inputs, targets = regression()
    weights = np.linspace(0.1, 2.0, len(inputs)).astype("float32")
    model = compile_under(
        setting, perceptron, sgd, "mse", metrics=["mae"], weighted_metrics=["mse"]
    )
    history = model.fit(
        batches(inputs, targets, weights),
        validation_data=batches(inputs, targets, weights),
        epochs=2,
        verbose=0,
    )
    evaluate = batches(inputs, targets, weights)
    return outcome(setting, model, history, evaluate=evaluate)


@row("validation data")
def validation_data(setting: Setting) -> Results:
    inputs, targets = regression(96)
    return train(
        setting,
        data=(inputs[:64], targets[:64]),
        validation_data=(inputs[64:], targets[64:]),
        compiled={"metrics": ["mae"]},
    )


@row("validation split")
def validation_split(setting: Setting) -> Results:
    return train(setting, data=regression(80), validation_split=0.2)


@row("sparse cross-entropy and accuracy")
def cross_entropy_classes(setting: Setting) -> Results:
    return train(
        setting,
        build=lambda: perceptron(3, "softmax"),
        loss="sparse_categorical_crossentropy",
        data=classes(),
        compiled={"metrics": ["accuracy"]},
        evaluate=True,
        predict=True,
    )


@row("a second fit on the same model")
def second_fit(setting: Setting) -> Results:
    model = compile_under(setting, perceptron, sgd, "mse")
    inputs, targets = regression()
    model.fit(inputs, targets, batch_size=16, shuffle=False, verbose=0)
    history = model.fit(inputs, targets, batch_size=16, shuffle=False, verbose=0)
    return outcome(setting, model, history, predict=inputs)


@row("compiled again with another optimizer")
def second_compile(setting: Setting) -> Results:
    model = compile_under(setting, perceptron, sgd, "mse")
    inputs, targets = regression()
    model.fit(inputs, targets, batch_size=16, shuffle=False, verbose=0)
    with setting.scope():
        model.compile(keras.optimizers.Adam(0.01), "mae")
    history = model.fit(inputs, targets, batch_size=16, shuffle=False, verbose=0)
    return outcome(setting, model, history)


@row("train_on_batch, test_on_batch, predict_on_batch")
def on_batch(setting: Setting) -> Results:
    # Every replica is given the whole batch, as under plain tf.distribute, so the
    # result is that of one process on this batch.
    model = compile_under(setting, perceptron, sgd, "mse", metrics=["mae"])
    inputs, targets = regression()
    trained = [
        model.train_on_batch(inputs[start : start + 16], targets[start : start + 16])
        for start in range(0, 64, 16)
    ]
    results = outcome(setting, model)
    results["history/trained"] = np.asarray(trained, "float64")
    tested = model.test_on_batch(inputs[:16], targets[:16])
    results["evaluate/tested"] = np.asarray(tested, "float64")
    return results
