"""Runs on one process and on several; each rank runs every test.

python -m pytest
mpirun -np 2 python -m pytest
horovodrun -np 2 --gloo python -m pytest
"""

import numpy as np

import tfdist


def test_the_model_learns(model):
    """A sum of the inputs has the weights 1."""
    (kernel, _) = model.get_weights()
    assert np.allclose(kernel, 1.0, atol=0.1)


def test_all_ranks_hold_the_same_weights(model):
    """Bit by bit: every rank waits in the collective, so all must come to it."""
    mine = np.concatenate([weights.ravel() for weights in model.get_weights()])
    strategy = model.distribute_strategy
    rows = strategy.experimental_distribute_values_from_function(lambda _: mine[None])
    everybody = np.asarray(strategy.gather(rows, axis=0))
    assert (everybody == mine).all()


def test_ranks_differ_where_they_should():
    """Each rank knows its number."""
    assert 0 <= tfdist.cluster.rank() < tfdist.cluster.size()
