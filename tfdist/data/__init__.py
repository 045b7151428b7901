"""Data that every process reads its own part of, in one reproducible order."""

from tfdist.data.batches import Batches as Batches
from tfdist.data.batches import starting_at as starting_at
from tfdist.data.sharding import count_steps as count_steps
from tfdist.data.sharding import permutation as permutation
from tfdist.data.sharding import replica_indices as replica_indices
from tfdist.data.sharding import split_sizes as split_sizes
from tfdist.data.tfds import from_tfds as from_tfds
from tfdist.data.tfrecords import count_records as count_records
from tfdist.data.tfrecords import from_tfrecords as from_tfrecords
