"""Arguments that are wrong: one line of what, and one hint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from tfdist.errors import nearest


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that names the nearest option, and takes no abbreviations.

    Abbreviations would change their meaning with the next option that is added.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses; a verb's parser itself refuses what it does not know."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = unknown[0].partition("=")[0]
            meant = nearest(option, self._option_string_actions)
            did_you = f"did you mean {meant}? " if meant else ""
            self._refuse(f"unknown argument {option}", f"{did_you}{self.prog} --help")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2 and one line."""
        self._refuse(message, f"usage: {self.prog} --help")

    def _refuse(self, problem: str, hint: str) -> NoReturn:
        self.exit(2, f"tfdist: {self.prog}: {problem}. HINT: {hint}\n")
