"""Global batches split between replicas, all replicas in one process."""

import numpy as np
import pytest
import tensorflow as tf

from tfdist.strategies import sharding

ROWS = np.arange(23, dtype=np.int64)


def shares(dataset, replicas):
    return [
        list(sharding.replica_batches(dataset, replicas, replica).as_numpy_iterator())
        for replica in range(replicas)
    ]


@pytest.mark.parametrize("replicas", [2, 3, 5])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_the_replicas_batches_joined_in_order_are_the_global_batch(
    replicas, drop_remainder
):
    dataset = tf.data.Dataset.from_tensor_slices(ROWS).batch(
        8, drop_remainder=drop_remainder
    )
    parts = shares(dataset, replicas)
    for step, batch in enumerate(dataset.as_numpy_iterator()):
        own = [part[step] for part in parts]
        np.testing.assert_array_equal(np.concatenate(own), batch)
        sizes = [len(rows) for rows in own]
        assert max(sizes) - min(sizes) <= 1


def test_a_batch_of_one_row_leaves_replicas_empty_but_in_step():
    dataset = tf.data.Dataset.from_tensor_slices(ROWS[:9]).batch(8)
    parts = shares(dataset, 2)
    assert [len(part) for part in parts] == [2, 2]
    assert sorted(len(part[1]) for part in parts) == [0, 1]


def test_the_batch_size_is_static_only_where_all_replicas_share_it():
    dataset = tf.data.Dataset.from_tensor_slices(ROWS).batch(8, drop_remainder=True)
    assert sharding.replica_batches(dataset, 2, 0).element_spec.shape == (4,)
    assert sharding.replica_batches(dataset, 3, 0).element_spec.shape[0] is None


def test_structures_ragged_sparse_and_text_are_split_alike():
    ragged = tf.ragged.constant([[1], [2, 3], [], [4, 5, 6]])
    dataset = tf.data.Dataset.from_tensors(
        {
            "ragged": ragged,
            "sparse": tf.sparse.from_dense(np.eye(4)),
            "text": tf.constant(["a", "b", "c", "d"]),
        }
    )
    first, second = (
        next(iter(sharding.replica_batches(dataset, 2, r))) for r in (0, 1)
    )
    assert tf.concat([first["ragged"], second["ragged"]], 0).to_list() == (
        ragged.to_list()
    )
    dense = [tf.sparse.to_dense(part["sparse"]) for part in (first, second)]
    np.testing.assert_array_equal(tf.concat(dense, 0), np.eye(4))
    assert second["text"].numpy().tolist() == [b"c", b"d"]


def test_what_was_split_is_not_split_again():
    dataset = tf.data.Dataset.from_tensor_slices(ROWS).batch(8)
    once = sharding.replica_batches(dataset, 2, 1)
    again = sharding.replica_batches(once.map(lambda x: x), 2, 1)
    assert [len(b) for b in again] == [len(b) for b in once]
    # The control: an unmarked dataset of the same batches is split.
    copied = tf.data.Dataset.from_generator(
        lambda: iter(once), output_signature=once.element_spec
    )
    halves = sharding.replica_batches(copied, 2, 1)
    assert sum(len(b) for b in halves) < sum(len(b) for b in once)


def test_sharding_by_files_is_refused():
    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy.FILE
    options.experimental_distribute.auto_shard_policy = policy
    dataset = tf.data.Dataset.from_tensor_slices(ROWS).batch(8).with_options(options)
    with pytest.raises(ValueError, match=r"AutoShardPolicy\.FILE(.|\n)*HINT"):
        sharding.replica_batches(dataset, 2, 0)


def test_an_unbatched_dataset_is_refused():
    with pytest.raises(ValueError, match=r"not batched(.|\n)*HINT: .*batch\("):
        sharding.refuse_unbatched(tf.data.Dataset.from_tensor_slices(ROWS))


class Lengths:
    """Stands for a strategy whose other process has a dataset of another length."""

    def __init__(self, other):
        self.other = other

    def gather_integers(self, value):
        return [value, self.other]


def test_a_shorter_dataset_goes_on_with_empty_batches():
    dataset = tf.data.Dataset.from_tensor_slices(ROWS[:16]).batch(8, True)
    batches = list(sharding.even_steps(dataset, Lengths(4)))
    assert [len(batch) for batch in batches] == [8, 8, 0, 0]
    assert len(list(sharding.even_steps(dataset, Lengths(2)))) == 2


def test_an_unknown_length_is_refused():
    dataset = tf.data.Dataset.from_tensor_slices(ROWS).batch(8).filter(lambda x: True)
    with pytest.raises(ValueError, match=r"assert_cardinality"):
        sharding.even_steps(dataset, Lengths(3))
