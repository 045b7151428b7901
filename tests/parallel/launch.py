"""Start a mode's processes, and go on after a row that crashed or hung."""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.parallel.modes import MODES, OUT_OF_STEP, Mode, commands
from tests.processes import end

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0  # import TensorFlow, form the cluster
ROW_SECONDS = 90.0  # one row, far above what any needs


def launch(
    mode: Mode, rows: Sequence[str], out: Path, row_seconds: float = ROW_SECONDS
) -> None:
    """Run the rows under a mode; every row leaves a status in `out`.

    A row that fails leaves the ranks out of step, so the rows after it get new
    processes. In one process there is no step to lose.
    """
    out.mkdir(parents=True, exist_ok=True)
    remaining = list(rows)
    while remaining:
        for path in (*out.glob("ready.*"), *out.glob(OUT_OF_STEP)):
            path.unlink()
        log = out / f"log.{remaining[0]}.txt"
        ending = _run_once(mode, remaining, out, log, row_seconds)
        started = (out / "ready.0").exists()
        remaining = [row for row in remaining if not _finished(mode, row, out)]
        if not remaining or (out / OUT_OF_STEP).exists():
            continue
        # The watchdog of a stuck rank reports by way of the log.
        if "Timeout (" in log.read_text(errors="replace"):
            ending = "hangs"
        lost, remaining = (remaining[:1], remaining[1:]) if started else (remaining, [])
        error = f"{ending}; the end of the log:\n{tail(log)}"
        status = "hangs" if ending == "hangs" else "crashed"
        for row in lost:
            text = json.dumps({"status": status, "error": error, "seconds": 0.0})
            (out / f"{row}.launch.json").write_text(text)


def launch_all(rows_of: Mapping[str, Sequence[str]], out: Path) -> dict[str, float]:
    """Run each mode's rows into its own folder of `out`; return the seconds taken.

    Two modes run side by side: ranks wait for one another a good part of the time.
    """

    def timed(name: str) -> float:
        began = time.monotonic()
        launch(MODES[name], rows_of[name], out / name)
        return time.monotonic() - began

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(rows_of, pool.map(timed, rows_of), strict=True))


def _run_once(
    mode: Mode, rows: Sequence[str], out: Path, log: Path, row_seconds: float
) -> str:
    """Start all processes, wait for their end or for silence, and say which it was."""
    arguments = ["--strategy", mode.strategy, "--out", str(out)]
    arguments += ["--row-seconds", str(row_seconds), "--rows", *rows]
    if mode.launcher[:1] == ("mpirun",):
        arguments.append("--mpi4py")
    with log.open("w") as output:
        processes = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            for command, environment in commands(mode, arguments)
        ]
        try:
            return _wait(processes, out, row_seconds)
        finally:
            for process in processes:
                end(process)


def _wait(processes: list[subprocess.Popen], out: Path, row_seconds: float) -> str:
    limit = time.monotonic() + START_SECONDS
    seen = 0
    while any(process.poll() is None for process in processes):
        time.sleep(0.1)
        done = len(list(out.glob("*.json")))
        if done > seen:
            seen, limit = done, time.monotonic() + row_seconds + 10.0
        if time.monotonic() > limit:
            return "hangs"
        # The others wait for a peer that has died: give them a moment, no more.
        if any(process.poll() for process in processes):
            limit = min(limit, time.monotonic() + 10.0)
    codes = sorted({process.returncode for process in processes})
    return f"exit codes {codes}"


def _finished(mode: Mode, row: str, out: Path) -> bool:
    return all((out / f"{row}.{r}.json").exists() for r in range(mode.processes))


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
