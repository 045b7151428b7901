"""Load what the row `save` left, in a process where tfdist cannot be imported.

python -m tests.parallel.reload MODE/files/save
"""

import json
import sys
from pathlib import Path

ABSENT = ("tfdist", "horovod")
for _name in ABSENT:
    sys.modules[_name] = None  # type: ignore[assignment]  # importing it now raises

import keras  # noqa: E402
import numpy as np  # noqa: E402

from tests.parallel.training import regression  # noqa: E402


def main(folder: Path) -> None:
    """Print how far the loaded model's predictions are from the saving run's."""
    inputs, targets = regression()
    model = keras.models.load_model(folder / "model.keras")
    predicted = model.predict(inputs, batch_size=16, verbose=0)
    results = folder.parents[1] / f"{folder.name}.0.npz"
    with np.load(results, allow_pickle=False) as file:
        difference = float(np.max(np.abs(predicted - file["predict/0"])))
    model.fit(inputs, targets, verbose=0)  # the optimizer is a plain one too
    imported = [name for name in ABSENT if sys.modules.get(name) is not None]
    print(json.dumps({"difference": difference, "imported": imported}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
