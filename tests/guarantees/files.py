"""Trains with every callback that writes files, given one path on all ranks."""

import os
import sys
from typing import Any

import h5py
import keras

from tests.guarantees.models import batches, compiled, regression
from tests.guarantees.place import Place, caught, main

EPOCHS = 4
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}
_written: list[str] = []


def _audit(event: str, arguments: tuple) -> None:
    """Notes the paths that this process changes, as Python sees it."""
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
    if (writes or event in _CHANGES) and isinstance(arguments[0], str | os.PathLike):
        _written.append(os.fspath(arguments[0]))


class _NotedFile(h5py.File):
    """HDF5 opens its files unseen by Python."""

    def __init__(self, name: Any, mode: str = "r", **options: Any) -> None:
        if mode != "r" and isinstance(name, str | os.PathLike):
            _written.append(os.fspath(name))
        super().__init__(name, mode, **options)


def callbacks(place: Place) -> list[keras.callbacks.Callback]:
    folder = place.out / "shared"
    return [
        keras.callbacks.ModelCheckpoint(folder / "epoch{epoch}.keras"),
        keras.callbacks.ModelCheckpoint(folder / "best.keras", save_best_only=True),
        keras.callbacks.ModelCheckpoint(
            folder / "best.weights.h5", save_best_only=True, save_weights_only=True
        ),
        keras.callbacks.CSVLogger(folder / "log.csv"),
        keras.callbacks.TensorBoard(folder / "tensorboard", histogram_freq=1),
    ]


def _changed(place: Place, since: int) -> list[str]:
    return sorted({path for path in _written[since:] if str(place.out) in path})


def written(place: Place) -> Any:
    """What each rank has changed while it trained and saved."""
    sys.addaudithook(_audit)
    h5py.File = _NotedFile
    model = compiled(place.strategy)
    since = len(_written)
    model.fit(
        batches(),
        epochs=EPOCHS,
        validation_data=batches(),
        callbacks=callbacks(place),
        verbose=0,
    )
    folder = place.out / "shared"
    model.save(folder / "final.keras")
    model.save_weights(folder / "final.weights.h5")
    model.export(folder / "exported", verbose=False)
    predictions = model.predict(regression()[0], verbose=0)
    return {"changed": _changed(place, since), "predictions": predictions}


def restored(place: Place) -> Any:
    """A run that is interrupted after two epochs, and goes on where it was."""

    def interrupt(epoch: int, logs: Any) -> None:
        if epoch == 2:
            raise InterruptedError("as by a reboot")

    folder = place.out / "shared" / "backup"
    interruption = keras.callbacks.LambdaCallback(on_epoch_begin=interrupt)
    epochs: list[int] = []
    note = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, _: epochs.append(e))
    since = len(_written)
    outcome = caught(
        lambda: compiled(place.strategy).fit(
            batches(),
            epochs=EPOCHS,
            callbacks=[keras.callbacks.BackupAndRestore(folder), interruption],
            verbose=0,
        )
    )
    kept = folder.exists()
    model = compiled(place.strategy)
    model.fit(
        batches(),
        epochs=EPOCHS,
        callbacks=[keras.callbacks.BackupAndRestore(folder), note],
        verbose=0,
    )
    return {
        "interruption": outcome["kind"],
        "kept": kept,
        "epochs": epochs,
        "changed": _changed(place, since),
        "weights": [weight.ravel() for weight in model.get_weights()],
    }


def control(place: Place) -> Any:
    """The negative control: a file that every rank does write is noticed."""
    since = len(_written)
    keras.saving.save_model(compiled(place.strategy), place.out / f"{place.rank}.keras")
    return {"changed": _changed(place, since)}


if __name__ == "__main__":
    main(written, restored, control)
