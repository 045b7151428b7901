"""Learns handwritten digits with 8 times the batch, in an eighth of the steps.

The small batch; 8 times as many images in a step; the same with a learning rate that
is multiplied by 8 and warmed up:

alias digits="horovodrun -np 2 --gloo python examples/digits/large_batch.py"
digits --batch-factor 1 --scaling off
digits --scaling off
digits

docs/large_batch.md compares them in cross-validation.
"""

from pathlib import Path

import arguments
import data
import model
import report

import tfdist

SMALL_BATCH = 16  # images, for which the rate in model.py is right
WARMUP_EPOCHS = 2


def add_options(parser):
    add = parser.add_argument
    add("--batch-factor", type=int, default=8, help=f"times {SMALL_BATCH} images")
    add("--scaling", choices=("on", "off"), default="on", help="of the learning rate")
    add("--range-test", type=Path, metavar="FILE.png", help="try rates beforehand")


options = arguments.parse(__doc__, distributed=True, add_others=add_options)
tfdist.set_seed(options.seed)

batch_size = SMALL_BATCH * options.batch_factor
strategy = tfdist.strategy(options.strategy)
with strategy.scope():
    train, test = data.load(options.data_dir, batch_size, options.seed)
    network = model.build_perceptron(train.steps * options.epochs)

if options.range_test:
    found = tfdist.tools.lr_range_test(network, train.dataset, plot=options.range_test)
    if tfdist.cluster.is_chief():
        print(found)

timer = report.StepTimer()
callbacks = [timer]
if options.scaling == "on":
    scaling = tfdist.callbacks.LearningRateScaling(
        reference_batch_size=SMALL_BATCH,
        warmup_epochs=WARMUP_EPOCHS,
        batch_size=batch_size,
    )
    callbacks.append(scaling)
network.fit(
    train.dataset,
    steps_per_epoch=train.steps,
    epochs=options.epochs,
    callbacks=callbacks,
    shuffle=False,  # the dataset is; Keras would warn that it cannot
    verbose=2,
)
results = network.evaluate(test.dataset, verbose=0, return_dict=True)
report.show_all(results["accuracy"], timer.milliseconds, network, strategy)
