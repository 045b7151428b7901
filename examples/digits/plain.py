"""Learns handwritten digits with Keras alone, in one process.

python examples/digits/plain.py
"""

import arguments
import data
import keras
import model
import report

options = arguments.parse(__doc__)
keras.utils.set_random_seed(options.seed)

train, test = data.load(options.data_dir, model.BATCH_SIZE, options.seed)
network = model.build(train.steps * options.epochs)

timer = report.StepTimer()
network.fit(
    train.dataset,
    steps_per_epoch=train.steps,
    epochs=options.epochs,
    callbacks=[timer],
    shuffle=False,  # the dataset is; Keras would warn that it cannot
    verbose=2,
)
results = network.evaluate(test.dataset, verbose=0, return_dict=True)
report.show(results["accuracy"], timer.milliseconds)
