"""What a verb raises to end with one line for the user and no traceback."""

from __future__ import annotations

NOT_STARTED = 2
FAILED = 1


class CommandError(Exception):
    """Ends the command with one line on standard error.

    Args:
        problem: One sentence: what is missing or wrong, and what was found.
        hint: The command or argument that repairs it.
        exit_code: `NOT_STARTED` when a requirement is not met and nothing was
            done; `FAILED` when something that was started went wrong.

    Example:
        >>> str(CommandError("cmake was not found.", hint="pip install cmake"))
        'cmake was not found. HINT: pip install cmake'
    """

    def __init__(
        self, problem: str, *, hint: str, exit_code: int = NOT_STARTED
    ) -> None:
        super().__init__(f"{problem} HINT: {hint}")
        self.exit_code = exit_code
