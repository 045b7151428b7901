"""Two to four hosts on one machine, joined by a switch.

Each host is a set of Linux namespaces: its own network with one interface, its own
host name, /etc/hosts, processes, and a real sshd. Files are shared, as on a cluster
with a network file system. Nothing of it is seen from outside, and when its first
process ends, the kernel ends all others of that host.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("ip", "tc", "unshare", "nsenter", "setpriv", "ssh", "ssh-keygen", "sshd")
START_SECONDS = 20.0
MARK = "tfd"  # begins the names of all namespaces
BURST = "burst 256k latency 50ms"
SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:" + os.environ.get("PATH", ""))

# The first process of a host: bash, because it takes care of orphans.
FIRST = """
set -e
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/ssh_config" /etc/ssh/ssh_config
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/sshd
"$3" -D -e -f "$2/sshd_config" &
wait
"""
SSHD_CONFIG = """
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {own}/authorized_keys
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
MaxStartups 100
"""
# As a cluster's profile does; mpirun looks for `orted` on the other hosts' PATH.
PATH = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
SSH_CONFIG = """
Host *
    IdentityFile {folder}/key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking no
    LogLevel ERROR
"""


@dataclass
class Done:
    """A command that has ended, or had to be ended."""

    code: int | None  # None: the time was up
    output: str  # both streams
    seconds: float


class Host:
    """One host of a bed."""

    def __init__(self, name: str, address: str, interface: str, namespace: str):
        self.name = name
        self.address = address
        self.interface = interface
        self.namespace = namespace
        self.port = f"to-{name}"  # the switch's end of its cable
        self.first: subprocess.Popen | None = None
        self.known: dict[str, str] = {}  # what its /etc/hosts says
        self.bare = False  # see `hosts`


class Bed:
    """The hosts of one `with hosts(...)`: `bed.run("h1", ["hostname"])`."""

    def __init__(self, folder: Path, mark: str) -> None:
        self.folder = folder
        self.switch = f"{mark}-switch"
        self.hosts: dict[str, Host] = {}
        self._started: list[subprocess.Popen] = []

    def slots(self, each: int = 1) -> str:
        """Return what `-H` takes: "h1:1,h2:1"."""
        return ",".join(f"{name}:{each}" for name in self.hosts)

    def address(self, name: str) -> str:
        return self.hosts[name].address

    def run(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        seconds: float = 60.0,
        folder: Path = ROOT,
    ) -> Done:
        """Run a command on a host to its end, or for as many seconds."""
        began = time.monotonic()
        process = self.start(name, command, environment, folder)
        try:
            output, _ = process.communicate(timeout=seconds)
            code = process.returncode
        except subprocess.TimeoutExpired:
            self.end(process)
            output, _ = process.communicate(timeout=10)
            code = None
        return Done(code, output, time.monotonic() - began)

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        folder: Path = ROOT,
    ) -> subprocess.Popen:
        """Start a command on a host; its output, both streams, is a pipe of text."""
        process = subprocess.Popen(
            [*self._enter(name, folder), *map(str, command)],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def end(self, process: subprocess.Popen) -> None:
        """End what `start` returned, and all that it started on its host."""
        try:
            family = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            for one in family:
                try:
                    one.send_signal(number)
                except psutil.NoSuchProcess:
                    continue
            _, family = psutil.wait_procs(family, timeout=5)
        process.kill()

    def refuse(self, name: str) -> None:
        """Make a host's sshd know no key: ssh fails as with a wrong one."""
        (self.folder / name / "authorized_keys").write_text("")

    def cut(self, name: str) -> None:
        """Pull a host's cable: nobody hears of it, as when the power fails."""
        _call("ip", "-n", self.switch, "link", "set", self.hosts[name].port, "down")

    def lose(self, name: str) -> None:
        """Switch a host off: first silence, then all of its processes are gone."""
        self.cut(name)
        self._switch_off(self.hosts[name])

    def restore(self, name: str) -> None:
        """Switch a lost host on again, as after a repair."""
        host = self.hosts[name]
        _call("ip", "-n", self.switch, "link", "set", host.port, "up")
        self.power_on(host)

    def limit(self, rate: str | None) -> None:
        """Limit every cable, in both directions, to a rate such as "100mbit"."""
        for host in self.hosts.values():
            for namespace, device in (
                (host.namespace, host.interface),
                (self.switch, host.port),
            ):
                # Without a discipline is a cable's own state: "noqueue".
                words = f"-n {namespace} qdisc replace dev {device} root"
                limit = "noqueue" if rate is None else f"tbf rate {rate} {BURST}"
                _call("tc", *words.split(), *limit.split())

    def add(self, host: Host) -> None:
        """Build a host's network; its sshd starts in `power_on`."""
        self.hosts[host.name] = host
        _call("ip", "netns", "add", host.namespace)
        _call(
            *("ip", "link", "add", host.interface, "netns", host.namespace),
            *("type", "veth", "peer", "name", host.port, "netns", self.switch),
        )
        for words in (
            f"-n {self.switch} link set {host.port} master switch up",
            f"-n {host.namespace} address add {host.address}/24 dev {host.interface}",
            f"-n {host.namespace} link set {host.interface} up",
            f"-n {host.namespace} link set lo up",
        ):
            _call("ip", *words.split())

    def power_on(self, host: Host) -> None:
        """Start a host's first process and wait for its sshd."""
        folder = self.folder / host.name
        folder.mkdir(exist_ok=True)
        lines = [f"{address} {name}" for name, address in host.known.items()]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        for name, text in (("sshd_config", SSHD_CONFIG), ("ssh_config", SSH_CONFIG)):
            words = {"address": host.address, "folder": self.folder, "own": folder}
            (folder / name).write_text(text.format(**words))
        if not host.bare:
            with (folder / "sshd_config").open("a") as file:
                file.write(f"SetEnv PATH={PATH}\n")
        shutil.copy(self.folder / "key.pub", folder / "authorized_keys")
        unshare = "unshare --uts --mount --pid --fork --kill-child --mount-proc".split()
        log = (folder / "sshd.log").open("w")
        host.first = subprocess.Popen(
            [
                # Should this process be killed, its hosts are, too.
                *("setpriv", "--pdeathsig", "KILL"),
                *("ip", "netns", "exec", host.namespace, *unshare),
                *("bash", "-c", FIRST, "first", host.name, folder, str(SSHD)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()
        deadline = time.monotonic() + START_SECONDS
        while "listening on" not in (folder / "sshd.log").read_text():
            if host.first.poll() is not None or time.monotonic() > deadline:
                text = (folder / "sshd.log").read_text()
                raise RuntimeError(f"{host.name} does not start: {text}")
            time.sleep(0.05)

    def close(self) -> None:
        """End every process of the hosts and remove their networks."""
        for host in self.hosts.values():
            self._switch_off(host)
        for process in self._started:
            process.kill()  # only nsenter; what it started is gone with its host
            process.communicate()
        for namespace in (*[h.namespace for h in self.hosts.values()], self.switch):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)

    def _enter(self, name: str, folder: Path) -> list[str]:
        first = self.hosts[name].first
        if first is None or first.poll() is not None:
            raise RuntimeError(f"{name} is switched off")
        (inside,) = psutil.Process(first.pid).children()
        spaces = ("--net", "--uts", "--mount", "--pid")
        return ["nsenter", "-t", str(inside.pid), *spaces, f"--wdns={folder}"]

    def _switch_off(self, host: Host) -> None:
        if host.first is not None and host.first.poll() is None:
            for inside in psutil.Process(host.first.pid).children():
                inside.kill()
            host.first.wait(timeout=10)


@contextmanager
def hosts(
    count: int = 2,
    rate: str | None = None,
    *,
    interfaces: Mapping[str, str] | None = None,
    loopback_names: Sequence[str] = (),
    bare: bool = False,
) -> Iterator[Bed]:
    """Build the hosts h1, h2, ... with the addresses 10.77.0.1, ...

    Args:
        count: The number of hosts, 2 to 4.
        rate: The rate of every cable, such as "100mbit"; None for no limit.
        interfaces: The interfaces that are not called eth0, by host.
        loopback_names: The hosts whose own name is 127.0.1.1 to themselves, which
            is how Debian installs.
        bare: Whether a shell on another host does not find the programs beside this
            interpreter.
    """
    if not 2 <= count <= 4:
        raise ValueError(f"count must be 2 to 4. Received: {count}")
    _sweep()
    mark = f"{MARK}{os.getpid()}-{time.monotonic_ns() % 10**6}"
    with tempfile.TemporaryDirectory(prefix="tfdist-hosts-") as name:
        bed = Bed(Path(name), mark)
        try:
            for key in ("host_key", "key"):
                path = bed.folder / key
                _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
            _call("ip", "netns", "add", bed.switch)
            words = f"-n {bed.switch} link add switch type bridge"
            _call("ip", *words.split())
            _call("ip", *f"-n {bed.switch} link set switch up".split())
            for number in range(1, count + 1):
                host = f"h{number}"
                interface = (interfaces or {}).get(host, "eth0")
                address = f"10.77.0.{number}"
                bed.add(Host(host, address, interface, f"{mark}-{host}"))
            if rate is not None:
                bed.limit(rate)
            for host in bed.hosts.values():
                host.known = {one.name: one.address for one in bed.hosts.values()}
                if host.name in loopback_names:
                    host.known[host.name] = "127.0.1.1"
                host.bare = bare
                bed.power_on(host)
            yield bed
        finally:
            bed.close()


@functools.cache
def missing() -> str | None:
    """Return why no hosts can be built here, or None."""
    if os.geteuid() != 0:
        return "hosts are built of namespaces, which takes root"
    absent = [one for one in PROGRAMS if one != "sshd" and shutil.which(one) is None]
    absent += [] if SSHD else ["sshd"]
    if absent:
        packages = "openssh-server openssh-client iproute2 util-linux"
        return f"missing: {', '.join(absent)}. apt-get install {packages}"
    try:
        with hosts(2):
            return None
    except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
        detail = getattr(error, "stderr", None) or error
        return f"namespaces do not work here: {str(detail).strip()}"


def _sweep() -> None:
    """Remove the networks that a killed process has left; its hosts died with it."""
    names = subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    for name in re.findall(rf"^{MARK}\d+-\S+", names, re.MULTILINE):
        if not psutil.pid_exists(int(name.removeprefix(MARK).partition("-")[0])):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
