"""What the strategies guarantee beyond the equality that the feature matrix proves.

Each `test_X.py` starts the program `X.py` beside it, once or once for each way of
starting processes. A program only measures: it writes what it found on each rank,
and the test judges it.

- `launch.py`  starts a program's processes, within a time limit
- `place.py`   one rank of a program: where it runs, and how it reports
- `models.py`  the small models and data that the programs share
"""
