"""The digits example: its data, its twin scripts, and a short training run."""

import contextlib
import difflib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra tfdist[data]")
pytest.importorskip("sklearn", reason="needs the extra tfdist[data]")
from sklearn.datasets import load_digits  # noqa: E402

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits"
TIMEOUT = 180  # seconds

# The whole example runs in processes of its own: its modules have short names, and
# importing TFDS warns.
PREPARE = """
import sys
from pathlib import Path
import numpy as np
import data

digits = data.prepare(Path(sys.argv[1]))
columns = {}
for split in ("train", "test"):
    rows = list(digits.as_dataset(split=split).as_numpy_iterator())
    for name in ("image", "label", "index"):
        columns[f"{split}_{name}"] = np.stack([row[name] for row in rows])
np.savez(sys.argv[2], **columns)
"""
WAIT = """
import sys
from pathlib import Path
import data
from tfdist import cluster

for rank in (0, 1):
    cluster.install(cluster.Member(rank=rank, size=2))
    try:
        data.prepare(Path(sys.argv[1]), timeout=0.2)
    except TimeoutError as error:
        print(error)
"""


def start(*arguments, folder):
    """Starts a process of the example in a working directory of its own."""
    paths = [str(DIGITS), str(ROOT)]
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The prepared folder and what is in it; two jobs prepare it at once."""
    folder = tmp_path_factory.mktemp("digits")
    files = folder / "files"
    jobs = [
        start("-c", PREPARE, files, folder / f"{job}.npz", folder=folder)
        for job in (0, 1)
    ]
    for code, _, errors in [finish(job) for job in jobs]:
        assert code == 0, errors
    contents = [dict(np.load(folder / f"{job}.npz")) for job in (0, 1)]
    for name, values in contents[0].items():
        np.testing.assert_array_equal(values, contents[1][name])
    return files, contents[0]


def test_train_and_test_are_disjoint_and_all_images(prepared):
    _, contents = prepared
    images, labels = load_digits(return_X_y=True)
    train, test = contents["train_index"], contents["test_index"]
    assert (len(train), len(test)) == (1437, 360)
    assert sorted([*train, *test]) == list(range(1797))
    assert not pixels(contents["train_image"]) & pixels(contents["test_image"])
    assert pixels(contents["train_image"]) & pixels(contents["train_image"][:1])
    for split, index in (("train", train), ("test", test)):
        original = images[index].reshape(-1, 8, 8, 1)
        np.testing.assert_array_equal(contents[f"{split}_image"], original)
        np.testing.assert_array_equal(contents[f"{split}_label"], labels[index])


def pixels(images):
    return {image.tobytes() for image in images}


def test_the_test_set_is_stratified_and_fixed(prepared):
    _, contents = prepared
    assert np.bincount(contents["test_label"]).tolist() == [36] * 10
    assert sorted(contents["test_index"])[:5] == [0, 4, 6, 8, 10]


def test_files_are_whole_and_nothing_else_is_left(prepared):
    files, _ = prepared
    (version,) = (files / "handwritten").iterdir()
    assert len(list(version.glob("*train.tfrecord*"))) == 12


def test_waiting_ends_with_the_reason(tmp_path):
    with (tmp_path / "prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another job holds it for ever
        code, output, errors = finish(start("-c", WAIT, tmp_path, folder=tmp_path))
    assert code == 0, errors
    assert "Another job has been preparing the digits" in output
    assert "Rank 1 waited 0.2 s for the chief" in output
    assert output.count("HINT: ") == 2


def test_the_twins_differ_in_nine_lines():
    plain, distributed = (code_of(DIGITS / f"{n}.py") for n in ("plain", "distributed"))
    difference = list(difflib.ndiff(plain, distributed))
    removed = sum(line.startswith("- ") for line in difference)
    added = sum(line.startswith("+ ") for line in difference)
    assert 0 < added <= 9
    assert removed <= 8


def code_of(script):
    """Returns the script's lines of code, without its docstring and blank lines."""
    _, _, code = script.read_text().split('"""')
    return [line for line in code.splitlines() if line.strip()]


def test_plain_script_from_any_folder(prepared, tmp_path):
    files, _ = prepared
    script = DIGITS / "plain.py"
    job = start(script, "--epochs=2", f"--data-dir={files}", folder=tmp_path)
    code, output, errors = finish(job)
    assert code == 0, errors
    assert accuracy_of(output.splitlines()[-1].split("=")[1]) > 0.5


@pytest.mark.parametrize(
    "script",
    [
        "distributed.py",
        *(
            pytest.param(name, marks=pytest.mark.full)
            for name in ("custom_loop.py", "large_batch.py")
        ),
    ],
)
def test_scripts_on_two_devices_of_one_process(prepared, tmp_path, script):
    files, _ = prepared
    options = ("--strategy=mirrored", "--epochs=2", f"--data-dir={files}")
    code, output, errors = finish(start(DIGITS / script, *options, folder=tmp_path))
    assert code == 0, errors
    word, accuracy, ranks, identical = output.splitlines()[-1].split(" ")
    assert (word, ranks, identical) == ("demo:", "ranks=2", "identical=yes")
    assert accuracy_of(accuracy.removeprefix("test_accuracy=")) > 0.5


def accuracy_of(text):
    assert len(text) == len("0.9806")
    return float(text)


DISAGREE = """
import arguments, model, report
import tensorflow as tf

arguments.split_cpu()
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    network = model.build(1)
assert report.replicas_agree(network, strategy)
last = strategy.experimental_local_results(network.weights[-1].value)[1]
last.assign(tf.tensor_scatter_nd_update(last, [[9]], [1e-30]))
report.show_all(0.5, 1.0, network, strategy)
"""


def test_one_different_bit_is_seen(tmp_path):
    code, output, errors = finish(start("-c", DISAGREE, folder=tmp_path))
    assert output.endswith("ranks=2 identical=no\n"), errors
    assert code == 1
