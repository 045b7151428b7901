"""Learns handwritten digits under any strategy; compare with plain.py.

python examples/digits/distributed.py
python examples/digits/distributed.py --strategy mirrored
horovodrun -np 2 --gloo python examples/digits/distributed.py --compression powersgd
mpirun -np 2 python examples/digits/distributed.py
tfdist run -np 2 --max-restarts 5 examples/digits/distributed.py --recover runs/digits
TF_CONFIG='{"cluster": {"worker": ["localhost:2222", "localhost:2223"]},
    "task": {"type": "worker", "index": 0}}' python examples/digits/distributed.py
    (and the same with index 1)
"""

import arguments
import data
import model
import report

import tfdist

options = arguments.parse(__doc__, distributed=True, fit=True)
tfdist.set_seed(options.seed)

strategy = tfdist.strategy(options.strategy)
with strategy.scope():
    train, test = data.load(options.data_dir, model.BATCH_SIZE, options.seed)
    network = model.build(train.steps * options.epochs)

timer = report.StepTimer()
network.fit(
    train.dataset,
    steps_per_epoch=train.steps,
    epochs=options.epochs,
    callbacks=[timer, *options.callbacks],
    shuffle=False,  # the dataset is; Keras would warn that it cannot
    verbose=2,
)
results = network.evaluate(test.dataset, verbose=0, return_dict=True)
report.show_all(results["accuracy"], timer.milliseconds, network, strategy)
