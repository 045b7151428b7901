"""Predicts with a saved model where tfdist and Horovod cannot be imported.

python -m tests.guarantees.reload FILE
"""

import json
import sys

for _name in ("tfdist", "horovod"):
    sys.modules[_name] = None  # type: ignore[assignment]  # importing it now raises

import keras  # noqa: E402

from tests.guarantees.models import regression  # noqa: E402

if __name__ == "__main__":
    model = keras.models.load_model(sys.argv[1])
    print(json.dumps(model.predict(regression()[0], verbose=0).tolist()))
