"""Tables of measurements in Markdown pages, each between two marks."""

from collections.abc import Sequence


def line(cells: Sequence[str]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |"


def replace_between_marks(page: str, name: str, text: str) -> str:
    """Return the page with this text between the two marks of this name."""
    marks = (f"<!-- {name} -->\n", f"<!-- end of {name} -->\n")
    before, _, rest = page.partition(marks[0])
    _, found, after = rest.partition(marks[1])
    if not found:
        raise ValueError(f"the page has no {marks[0]!r} before {marks[1]!r}")
    return f"{before}{marks[0]}\n{text}\n{marks[1]}{after}"
