"""What pytest loads: two options, and the lock-step where several ranks run.

`mpirun -np 2 python -m pytest tests` runs every test on both ranks at once. In an
ordinary run, of one process, this module reads a few environment variables and
nothing else happens; `-p no:tfdist` keeps it out altogether.
"""

from __future__ import annotations

import os

import pytest

from tfdist.coordination.launch import Launch, read_launch

TIMEOUT = 300.0  # seconds for one test
GRACE = 10.0  # seconds for the other ranks to end a test in which one has failed


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of runs on several ranks."""
    group = parser.getgroup("tfdist", "tests on several ranks (mpirun, horovodrun)")
    for name, default, text in (
        ("timeout", TIMEOUT, "a test may take on all ranks; 0: any time"),
        ("grace", GRACE, "other ranks get to end a test after one has failed it"),
    ):
        group.addoption(
            f"--tfdist-{name}",
            type=float,
            metavar="SECONDS",
            help=f"seconds that {text} (default: {default:.0f})",
        )
        parser.addini(f"tfdist_{name}", f"seconds that {text}", default=str(default))


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Keeps all but the chief from writing a report, before pytest reads the option."""
    launch = _several_ranks(config)
    if launch is not None and launch.rank > 0:
        config.option.xmlpath = None


@pytest.hookimpl(trylast=True)  # after pytest has set up what prints the report
def pytest_configure(config: pytest.Config) -> None:
    """Starts the lock-step if a launcher has started several ranks."""
    launch = _several_ranks(config)
    if launch is not None:
        from tfdist.testing.lockstep import start

        start(config, launch, _seconds(config, "timeout"), _seconds(config, "grace"))


def _several_ranks(config: pytest.Config) -> Launch | None:
    try:
        launch = read_launch(os.environ)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    alone = launch is None or launch.size == 1
    return None if alone or config.option.collectonly else launch


def _seconds(config: pytest.Config, name: str) -> float:
    given = config.getoption(f"tfdist_{name}")
    text = config.getini(f"tfdist_{name}") if given is None else given
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise pytest.UsageError(
            f"tfdist_{name} is not a number of seconds. Received: {text!r}.\n"
            f"HINT: --tfdist-{name}=60"
        )
    return seconds
