"""TF_CONFIG, validated before TensorFlow sees it.

TensorFlow itself accepts an index that is out of range or a task type that is
not in the cluster, and then waits for ever for a process that nobody starts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tfdist.errors import explain

_EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


@dataclass(frozen=True)
class TfConfig:
    """The multi-worker job that a valid TF_CONFIG describes."""

    addresses: tuple[str, ...]  # "host:port" of every process, in rank order
    rank: int  # this process's place in `addresses`

    @property
    def local_rank(self) -> int:
        """This process's number among those of the same host name."""
        return self._hosts()[: self.rank].count(self._hosts()[self.rank])

    @property
    def local_size(self) -> int:
        """The number of processes whose address has the same host name."""
        return self._hosts().count(self._hosts()[self.rank])

    def _hosts(self) -> list[str]:
        return [address.rpartition(":")[0] for address in self.addresses]


def read_tf_config(text: str) -> TfConfig:
    """Reads and validates the value of TF_CONFIG.

    Args:
        text: The JSON text of the environment variable.

    Returns:
        The processes in rank order (a chief comes first) and this one's rank.

    Raises:
        ValueError: The text is not JSON, lacks a part, or names a task that is
            not in the cluster.

    Example:
        >>> read_tf_config('{"cluster": {"worker": ["a:1", "b:1"]}, '
        ...                '"task": {"type": "worker", "index": 1}}').rank
        1
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"{_short(text)} ({error})", "JSON") from None
    if not isinstance(config, dict):
        raise _malformed(_short(text), "a JSON object")
    cluster = config.get("cluster")
    task = config.get("task")
    if not isinstance(cluster, dict) or not cluster:
        raise _malformed(
            f"cluster={cluster!r}", 'an object "cluster" with a list "worker"'
        )
    for kind, addresses in cluster.items():
        _check_addresses(kind, addresses)
    if not isinstance(task, dict):
        raise _malformed(f"task={task!r}", 'an object "task" with "type" and "index"')
    members = {kind: cluster.get(kind, []) for kind in ("chief", "worker")}
    if len(members["chief"]) > 1:
        raise _malformed(f"{len(members['chief'])} chiefs", "at most one chief")
    everyone = tuple(members["chief"] + members["worker"])
    if len(set(everyone)) != len(everyone):
        raise _malformed(f"addresses {list(everyone)}", "every address only once")
    kind, index = task.get("type"), task.get("index")
    if kind not in members or not members[kind]:
        known = sorted(kind for kind, addresses in members.items() if addresses)
        raise _malformed(f"task type {kind!r}", f"one of {known}")
    # TensorFlow takes "0" as well as 0, and many templates write the string.
    if isinstance(index, str) and index.isascii() and index.isdigit():
        index = int(index)
    count = len(members[kind])
    if not isinstance(index, int) or isinstance(index, bool):
        raise _malformed(f"task index {index!r}", "an integer")
    if not 0 <= index < count:
        raise _malformed(
            f"task index {index} of type {kind!r}",
            f"an index from 0 to {count - 1}, as the cluster lists {count}",
        )
    before = len(members["chief"]) if kind == "worker" else 0
    return TfConfig(everyone, before + index)


def _check_addresses(kind: str, addresses: object) -> None:
    if kind not in ("chief", "worker"):
        raise _malformed(
            f"a job {kind!r} in the cluster",
            "only 'chief' and 'worker', which train synchronously",
        )
    if not isinstance(addresses, list) or not addresses:
        raise _malformed(f"{kind}={addresses!r}", "a list of 'host:port' strings")
    for address in addresses:
        host, _, port = (
            address.rpartition(":") if isinstance(address, str) else ("", "", "")
        )
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise _malformed(f"the {kind} address {address!r}", "'host:port'")


def _malformed(received: str, expected: str) -> ValueError:
    return ValueError(
        explain(
            "TF_CONFIG is malformed",
            received=received,
            expected=expected,
            hint=f"Set it as in TF_CONFIG='{_EXAMPLE}' or `unset TF_CONFIG`.",
        )
    )


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
