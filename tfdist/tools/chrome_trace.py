"""TensorFlow's profile as a Chrome trace.

TensorFlow 2.21 writes its own format alone (`*.xplane.pb`), which only a plugin of
TensorBoard reads. A Chrome trace opens in Perfetto (ui.perfetto.dev), in
chrome://tracing, and as JSON.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MICROSECOND = 1e6  # in the profile's picoseconds


def write(profile: Path, file: Path) -> int | None:
    """Converts a profile.

    Args:
        profile: A file `*.xplane.pb`.
        file: Where to write; `*.json.gz`.

    Returns:
        The number of events; None where this TensorFlow does not tell its format.
    """
    try:
        from tensorflow.tsl.profiler.protobuf import xplane_pb2
    except ImportError:  # a place that is not public, and has moved before
        return None
    space = xplane_pb2.XSpace()
    space.ParseFromString(profile.read_bytes())
    found = [event for plane in enumerate(space.planes) for event in _events(*plane)]
    with gzip.open(file, "wt", encoding="utf-8") as output:
        json.dump({"displayTimeUnit": "ms", "traceEvents": found}, output)
    return sum(event["ph"] == "X" for event in found)


def _events(number: int, plane: Any) -> Iterator[dict[str, Any]]:
    """Yields the events of a device or of the host, and what names their rows."""
    yield _name("process_name", plane.name, number)
    for line in plane.lines:
        name = line.display_name or line.name
        yield _name("thread_name", name, number, line.id)
        for event in line.events:
            kind = plane.event_metadata[event.metadata_id]
            yield {
                "ph": "X",
                "pid": number,
                "tid": line.id,
                "name": kind.display_name or kind.name,
                "ts": line.timestamp_ns / 1e3 + event.offset_ps / MICROSECOND,
                "dur": event.duration_ps / MICROSECOND,
            }


def _name(what: str, name: str, process: int, thread: int = 0) -> dict[str, Any]:
    return {
        "ph": "M",
        "pid": process,
        "tid": thread,
        "name": what,
        "args": {"name": name},
    }
