"""The test-bed itself: what a test may believe of its hosts."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from tests.hosts.bed import MARK, ROOT, hosts

SEND = """
import socket, sys, time
if sys.argv[1] == "receive":
    with socket.create_server(("", 5000)) as server:
        print("ready", flush=True)
        connection, _ = server.accept()
        while connection.recv(1 << 16):
            pass
        connection.sendall(b"!")
else:
    with socket.create_connection(("h2", 5000)) as connection:
        began = time.monotonic()
        connection.sendall(bytes(int(sys.argv[2])))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        print(time.monotonic() - began)
"""


def said(bed, name, *command):
    done = bed.run(name, command, seconds=20)
    assert done.code == 0, done.output
    return done.output.strip()


def namespaces() -> str:
    return subprocess.run(
        ["ip", "netns"], capture_output=True, text=True, check=True
    ).stdout


def test_each_host_has_its_own_name_address_and_processes(shared_bed):
    for name in ("h1", "h2"):
        assert said(shared_bed, name, "hostname") == name
        assert shared_bed.address(name) in said(shared_bed, name, "ip", "-br", "a")
        assert "eth0" in said(shared_bed, name, "ip", "-br", "link")
        assert said(shared_bed, name, "readlink", "/proc/1/exe").endswith("bash")
    code = "import socket; print(socket.gethostbyname('h2'))"
    assert said(shared_bed, "h1", sys.executable, "-c", code) == "10.77.0.2"


def test_ssh_leads_to_the_other_host(shared_bed):
    assert said(shared_bed, "h1", "ssh", "h2", "hostname; exit 0") == "h2"
    assert shared_bed.run("h2", ["ssh", "h1", "exit 7"], seconds=20).code == 7


def test_a_command_that_takes_too_long_is_ended(shared_bed):
    command = ["bash", "-c", "trap '' TERM; sleep 987 & wait; sleep 987"]
    assert shared_bed.run("h1", command, seconds=0.5).code is None
    assert "sleep 987" not in said(shared_bed, "h1", "ps", "-eo", "args")


def test_a_refused_key_and_a_pulled_cable(bed):
    assert bed.run("h1", ["ssh", "h2", "true"], seconds=20).code == 0
    bed.refuse("h2")
    done = bed.run("h1", ["ssh", "h2", "true"], seconds=20)
    assert done.code == 255
    assert "Permission denied" in done.output
    bed.cut("h2")
    ssh = ["ssh", "-o", "ConnectTimeout=1", "h2", "true"]
    assert bed.run("h1", ssh, seconds=20).code == 255


def test_names_and_interfaces_on_request():
    with hosts(3, interfaces={"h3": "net7"}, loopback_names=["h2"]) as bed:
        assert "net7" in said(bed, "h3", "ip", "-br", "link")
        assert "127.0.1.1 h2" in said(bed, "h2", "cat", "/etc/hosts")
        assert "127.0.1.1" not in said(bed, "h1", "cat", "/etc/hosts")
        assert said(bed, "h2", "ssh", "h3", "hostname") == "h3"


def seconds_to_send(bed, size: int) -> float:
    receiver = bed.start("h2", [sys.executable, "-c", SEND, "receive"])
    assert receiver.stdout.readline() == "ready\n"
    return float(said(bed, "h1", sys.executable, "-c", SEND, "send", str(size)))


@pytest.mark.parametrize("rate", [None, "20mbit"])
def test_the_rate_of_a_cable(rate):
    with hosts(2, rate=rate) as bed:
        seconds = seconds_to_send(bed, 5_000_000)
    # 2 s at 20 Mbit/s, less the burst that may pass at once.
    assert (seconds > 1.5) is (rate is not None)


def test_nothing_is_left():
    before = namespaces()
    with hosts(2) as bed:
        assert namespaces() != before
        bed.start("h1", ["setsid", "sleep", "4321"])
        bed.start("h1", ["ssh", "h2", "setsid sleep 4321"])
        deadline = time.monotonic() + 20
        while count("sleep 4321") < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert count("sleep 4321") >= 2
        bed.lose("h2")
        with pytest.raises(RuntimeError, match="switched off"):
            bed.run("h2", ["true"])
        folder = bed.folder
    assert namespaces() == before
    assert count("sleep 4321") == 0
    assert not folder.exists()


def test_hosts_die_with_the_process_that_built_them(tmp_path):
    code = (
        "import os; from tests.hosts.bed import MARK, ROOT, hosts\n"
        "with hosts(2) as bed:\n"
        "    bed.start('h1', ['sleep', '5432'])\n"
        "    print('built', flush=True)\n"
        "    import time; time.sleep(60)\n"
    )
    builder = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert builder.stdout.readline() == "built\n"
    mark = f"{MARK}{builder.pid}-"
    builder.kill()
    builder.communicate(timeout=10)
    assert mark in namespaces()
    with hosts(2):
        assert mark not in namespaces()
    deadline = time.monotonic() + 20
    while count("sleep 5432") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert count("sleep 5432") == 0


def count(words: str) -> int:
    found = psutil.process_iter(["cmdline", "status"])
    lines = [" ".join(one.info["cmdline"] or []) for one in found]
    return sum(line.endswith(words) for line in lines)
