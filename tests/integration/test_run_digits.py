"""The example, unchanged, under every strategy: real training on real processes."""

import pytest

from tests.integration.running import ROOT

EXAMPLE = str(ROOT / "examples/digits/distributed.py")


@pytest.mark.full
@pytest.mark.parametrize(
    "launch",
    [
        (),
        ("--strategy", "mirrored"),
        ("--strategy", "multiworker"),
        ("--strategy", "horovod"),
        ("--strategy", "horovod", "--controller", "mpi"),
    ],
    ids=" ".join,
)
def test_the_example_learns_on_two_replicas(run, launch):
    if "horovod" in launch:
        pytest.importorskip("horovod", reason="Horovod is not built")
    one = run("", "-np", "2", *launch, module=(EXAMPLE, "--epochs", "1"))
    code, out, _ = one.finish()
    assert code == 0
    assert "ranks=2 identical=yes" in out.splitlines()[-1]
    assert out.count("demo: ") == 1
    assert not one.survivors()
