"""Nothing in the package can run what it reads."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
CALLS = {"eval", "exec", "compile", "__import__"}
RUNS_THE_USERS_SCRIPT = ROOT / "tfdist" / "launch" / "run" / "bootstrap.py"
METHODS = {("yaml", "load"), ("yaml", "unsafe_load"), ("keras", "load_model")}


def dangers(source: str) -> Iterator[str]:
    """Yields what could run a stranger's code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES:
                yield str(node.module)
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in CALLS:
                yield called.id
            elif isinstance(called, ast.Attribute):
                owner = called.value.id if isinstance(called.value, ast.Name) else ""
                if (owner, called.attr) in METHODS:
                    yield f"{owner}.{called.attr}"
            for word in node.keywords:
                if word.arg == "allow_pickle" and ast.unparse(word.value) != "False":
                    yield word.arg


@pytest.mark.failure(42)
def test_the_package_has_none():
    found = {
        f"{path.relative_to(ROOT)}: {danger}"
        for top in ("tfdist", "callbacks")
        for path in (ROOT / top).rglob("*.py")
        if path != RUNS_THE_USERS_SCRIPT
        for danger in dangers(path.read_text())
    }
    assert found == set()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, cloudpickle.cloudpickle",
        "from pickle import loads",
        "eval(text)",
        "yaml.load(text)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_control_each_of_them_is_seen(source):
    assert list(dangers(source))
