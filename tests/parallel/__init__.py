"""The feature matrix: each row trained under every strategy, compared with one process.

- `rows/`       what is trained, written once, with the public Keras API
- `registry.py` the list of rows;  `setting.py` what a row may ask about where it runs
- `training.py` the shared models and data, and what of a run is compared
- `worker.py`   one rank of a launch: runs all rows in lock-step
- `modes.py`    how each mode is started;  `launch.py` starts it and survives crashes
- `compare.py`  pure comparison;  `matrix.py` prints it;  `test_matrix.py` asserts
- `reload.py`   loads the saved models where tfdist is absent
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
