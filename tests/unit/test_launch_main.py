"""The command line as a whole: its verbs, its errors, its start-up."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tfdist.launch import main as main_module
from tfdist.launch.errors import FAILED, CommandError


class FailingVerb:
    """A verb that cannot do its work."""

    @staticmethod
    def add_parser(verbs):
        def fail(arguments):
            raise CommandError("No disk.", hint="buy one", exit_code=FAILED)

        verbs.add_parser("fail").set_defaults(function=fail)


WAITING_VERB = """
import signal
import sys
from pathlib import Path
from tfdist.launch import main, processes

class Wait:
    def add_parser(verbs):
        verbs.add_parser("wait").set_defaults(function=wait)

def wait(arguments):
    command = ["/bin/sh", "-c", "echo $$; exec sleep 300"]
    log = Path(sys.argv[1])
    environment = processes.child_environment()
    return processes.run_logged(command, log, environment=environment)

main.VERBS = (Wait,)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # though the tests run under nohup
sys.exit(main.main(["wait"]))
"""

PRINTING_VERB = """
import sys
from tfdist.launch import main

class Print:
    def add_parser(verbs):
        verbs.add_parser("print").set_defaults(function=lambda arguments: print("x"))

main.VERBS = (Print,)
sys.exit(main.main(["print"]))
"""


def imported_by_help(module: str) -> bool:
    code = (
        "import sys; from tfdist.launch.main import build_parser;"
        f"build_parser().format_help(); sys.exit({module!r} in sys.modules)"
    )
    return bool(subprocess.run([sys.executable, "-c", code], timeout=60).returncode)


def test_help_does_not_import_tensorflow():
    assert not imported_by_help("tensorflow")
    assert not imported_by_help("keras")
    assert not imported_by_help("numpy")
    assert imported_by_help("argparse")  # the check itself can see an import


def test_module_is_the_command():
    command = [sys.executable, "-m", "tfdist.launch", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith("tfdist ")


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["horovod"], ["horovod", "install", "--gpus"]],
)
def test_wrong_arguments_end_with_one_line_and_a_hint(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main_module.main(arguments)
    written = capsys.readouterr().err
    assert written.startswith("tfdist: ") and written.count("\n") == 1
    assert "HINT: " in written and "tfdist" in written.partition("HINT: ")[2]


def test_a_misspelt_option_names_the_nearest(capsys):
    with pytest.raises(SystemExit, match="2"):
        main_module.main(["horovod", "install", "--forced"])
    assert "HINT: did you mean --force?" in capsys.readouterr().err


def test_an_error_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(main_module, "VERBS", (FailingVerb,))
    assert main_module.main(["fail"]) == FAILED
    assert capsys.readouterr().err == "tfdist: No disk. HINT: buy one\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_process_behind(tmp_path, number):
    log = tmp_path / "log"
    command = subprocess.Popen([sys.executable, "-c", WAITING_VERB, str(log)])
    try:
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text().endswith("\n")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started = int(log.read_text())
        assert psutil.pid_exists(started)
        command.send_signal(number)
        assert command.wait(timeout=60) == 128 + number
        assert not psutil.pid_exists(started)
    finally:
        command.kill()
        command.wait()


def test_under_nohup_a_lost_terminal_ends_nothing(monkeypatch):
    monkeypatch.setattr(main_module, "VERBS", (FailingVerb,))
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        main_module.main(["fail"])
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        main_module.main(["fail"])
        assert signal.getsignal(signal.SIGHUP) != signal.SIG_DFL  # the control
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_reader_that_leaves_is_no_traceback():
    command = [sys.executable, "-c", PRINTING_VERB]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_missing_stream_goes_nowhere(monkeypatch, name):
    monkeypatch.setattr(main_module, "VERBS", (FailingVerb,))
    monkeypatch.setattr(sys, name, None)  # as after `tfdist ... >&-`
    assert main_module.main(["fail"]) == FAILED
    with getattr(sys, name) as stream:
        assert stream.name == os.devnull and not stream.isatty()
