"""Start `tfdist run` as a user would, and see what is left of it."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.parallel.modes import FEW_THREADS, OPEN_MPI
from tests.processes import end

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = ("TF_CONFIG", "HOROVOD_", "OMPI_", "PMI_", "PMIX_", "SLURM_", "TFDIST_")
SECONDS = 90.0  # for anything that has to happen


class Run:
    """A `tfdist run` that was started, with its logs in `folder / "logs"`.

    Args:
        folder: Where the script and the logs go; also the working folder.
        script: The text of the script.
        *arguments: Of `tfdist run`.
        words: Of the script.
        module: "-m", a module's name and its words, to run in place of the script.
        stdout, stderr: As in `subprocess.Popen`.
    """

    def __init__(
        self,
        folder: Path,
        script: str,
        *arguments: str,
        words: tuple[str, ...] = (),
        module: tuple[str, ...] = (),
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
    ) -> None:
        self.logs = folder / "logs"
        self._mark = f"TFDIST_TEST_MARK={uuid.uuid4().hex}"
        (folder / "script.py").write_text(script)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        path = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")]))
        name, _, value = self._mark.partition("=")
        options = [*arguments, "--log-dir", str(self.logs)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tfdist.launch", "run"]
            + [*options, *(module or ("script.py", *words))],
            cwd=folder,
            env=inherited
            | FEW_THREADS
            | OPEN_MPI
            | {"PYTHONPATH": path, "PYTHONWARNINGS": "", name: value},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def finish(self, seconds: float = SECONDS) -> tuple[int, str, str]:
        """Return the exit code, stdout and stderr."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise
        return self.process.returncode, out, err

    def survivors(self) -> list[str]:
        """Return what still runs of all that was started."""
        return [line for _, line in self.commands()]

    def commands(self, part: str = "") -> list[tuple[int, str]]:
        """Return the ids and command lines of what runs, with a part in the line."""
        found = [
            (process.pid, " ".join(process.cmdline()))
            for process in psutil.process_iter()
            if self._is_ours(process)
        ]
        return [(pid, line) for pid, line in found if part in line]

    def wait_for_no_survivors(self, seconds: float) -> None:
        """Fail unless all that was started ends within the time."""
        wait_until(lambda: not self.survivors(), seconds, lambda: self.survivors())

    def wait_for(self, text: str, rank: int, attempt: int | None = None) -> None:
        """Wait until a rank has written a text; see `log`."""
        wait_until(
            lambda: text in self.log(rank, attempt),
            SECONDS,
            lambda: self.log(rank, attempt),
        )

    def log(self, rank: int, attempt: int | None = None) -> str:
        """Return what a rank has written so far, in one of several starts."""
        folder = self.logs if attempt is None else self.logs / f"attempt-{attempt}"
        path = folder / f"rank-{rank}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def end(self) -> None:
        """End what a failed test would leave behind."""
        end(self.process)
        for process in psutil.process_iter():
            if self._is_ours(process):
                process.kill()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            environ = Path(f"/proc/{process.pid}/environ").read_text(errors="replace")
        except (OSError, psutil.NoSuchProcess):
            return False
        return self._mark in environ.split("\0")


def wait_until(
    condition: Callable[[], object],
    seconds: float,
    explain: Callable[[], object],
) -> None:
    """Fail with an explanation unless the condition becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.05)
