"""The cables between the hosts: their rate, what they carried, what TCP gets."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass

from tests.hosts.bed import ROOT, Bed
from tfdist.launch.estimate.units import parse_bandwidth

UNLIMITED = "unlimited"
RAW_TCP = str(ROOT / "benchmarks/network/raw_tcp.py")
REPEATS = 3
RAW_SECONDS = 0.5  # of one transfer at the nominal rate
RAW_MOST = 200_000_000  # bytes


@dataclass(frozen=True)
class Rate:
    """What `--rates` names: "1Gbit", or no limit."""

    name: str

    @property
    def bits(self) -> float | None:
        """Bits per second; None without a limit."""
        return None if self.name == UNLIMITED else parse_bandwidth(self.name, "--rates")


def set_rate(bed: Bed, rate: Rate) -> None:
    """Limits every cable in both directions."""
    bed.limit(None if rate.bits is None else f"{rate.bits:.0f}bit")


def sent_bytes(bed: Bed) -> list[int]:
    """Returns what each host has sent, as its interface counts it."""
    counts = []
    for host in bed.hosts.values():
        command = ["ip", "-n", host.namespace, "-s", "-j", "link", "show"]
        done = subprocess.run(
            [*command, "dev", host.interface],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
        counts.append(json.loads(done.stdout)[0]["stats64"]["tx"]["bytes"])
    return counts


def raw_rate(bed: Bed, rate: Rate) -> float:
    """Returns the bits per second that plain TCP gets, each way, both ways at once."""
    first, second = list(bed.hosts)[:2]
    size = RAW_MOST
    if rate.bits is not None:
        size = min(size, int(RAW_SECONDS * rate.bits / 8))
    taken = []
    for _ in range(REPEATS):
        listener = bed.start(second, [sys.executable, RAW_TCP, "listen"])
        if listener.stdout.readline() != "ready\n":
            raise RuntimeError(f"no listener: {listener.communicate()[0]}")
        command = [sys.executable, RAW_TCP, "connect", bed.address(second), size]
        done = bed.run(first, [str(word) for word in command], seconds=60)
        if done.code != 0:
            raise RuntimeError(f"no connection: {done.output}")
        listener.wait(10)
        taken.append(float(done.output))
    return 8 * size / statistics.median(taken)
