"""PyTorch in an environment of its own: tfdist must not depend on it."""

from __future__ import annotations

import subprocess
import sys

from tests.hosts.bed import ROOT
from tfdist.launch.errors import FAILED, CommandError

FOLDER = ROOT / ".venv-torch"
PYTHON = FOLDER / "bin" / "python"
COMPLETE = FOLDER / ".packages"  # only there when the installation has ended well


def exists() -> bool:
    """Returns whether the environment has been made."""
    return COMPLETE.exists()


def make() -> None:
    """Makes the environment, unless it is there.

    Raises:
        CommandError: If PyTorch cannot be installed.
    """
    if exists():
        return
    print(f"installing PyTorch in {FOLDER.name} (several GB, once)", flush=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "torch", "numpy"]
    for command in ([sys.executable, "-m", "venv", str(FOLDER)], pip):
        if subprocess.run(command).returncode != 0:
            raise CommandError(
                f"--with-torch: PyTorch could not be installed in {FOLDER.name}.",
                hint=f"rm -r {FOLDER.name}, and leave --with-torch out",
                exit_code=FAILED,
            )
    COMPLETE.touch()
