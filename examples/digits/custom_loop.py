"""Learns handwritten digits with a training loop of its own, under any strategy.

Starts like distributed.py:

    horovodrun -np 2 --gloo python examples/digits/custom_loop.py
"""

import time

import arguments
import data
import model
import report
import tensorflow as tf

import tfdist

options = arguments.parse(__doc__, distributed=True)
tfdist.set_seed(options.seed)

strategy = tfdist.strategy(options.strategy)
with strategy.scope():
    train, test = data.load(options.data_dir, model.BATCH_SIZE, options.seed)
    network = model.build(train.steps * options.epochs)
    optimizer = tfdist.gradients.attach(network.optimizer, network)
    loss_of = network.loss  # its mean: attach() weighs it by the replica's share


@tf.function(reduce_retracing=True)
def train_step(images, labels):
    def step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, network(images, training=True))
        weights = network.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)

    strategy.run(step, args=(images, labels))


@tf.function(reduce_retracing=True)
def count_correct(images, labels):
    def count(images, labels):
        answers = tf.argmax(network(images, training=False), axis=1)
        return tf.reduce_sum(tf.cast(answers == labels, tf.int64))

    counts = strategy.run(count, args=(images, labels))
    return strategy.reduce(tf.distribute.ReduceOp.SUM, counts, axis=None)


batches = iter(strategy.experimental_distribute_dataset(train.dataset))
for epoch in range(options.epochs):
    start = time.perf_counter()
    for _ in range(train.steps):
        train_step(*next(batches))
    milliseconds = 1000 * (time.perf_counter() - start) / train.steps
    if tfdist.cluster.is_chief():
        print(f"epoch {epoch + 1}/{options.epochs}: {milliseconds:.2f} ms per step")

test_batches = strategy.experimental_distribute_dataset(test.dataset)
correct = sum(int(count_correct(*batch)) for batch in test_batches)
report.show_all(correct / data.TEST_IMAGES, milliseconds, network, strategy)
