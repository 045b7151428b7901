"""The wire, the handshake, and strangers who knock at the server's port."""

from __future__ import annotations

import json
import secrets
import select
import socket
import threading
import time
from functools import partial

import pytest

from tfdist.coordination.addresses import candidates
from tfdist.coordination.handshake import introduce, new_challenge, proof, verify
from tfdist.coordination.judge import Judge
from tfdist.coordination.limits import Limits, stall_limit
from tfdist.coordination.link import Link, connect
from tfdist.coordination.loop import Loop
from tfdist.coordination.server import Server
from tfdist.coordination.wire import MAX_LINE, Channel, WireError, decode, encode
from tfdist.coordination.wording import differences, group, name_ranks
from tfdist.errors import TfdistError
from tfdist.testing.meeting import Meeting

TOKEN = bytes(range(32))
HALF = "\ud800"  # of a character: JSON can hold it, no encoding can


def serve(token: bytes) -> Server:
    return Server(2, token, "127.0.0.1", Judge(2, Limits(), time.monotonic()))


@pytest.fixture
def server():
    one = serve(TOKEN)
    yield one
    one.stop(1.0)


@pytest.fixture
def knock(server):
    opened = []

    def knock():
        connection = socket.create_connection(("127.0.0.1", server.port), 5.0)
        opened.append(connection)
        return connection

    yield knock
    for connection in opened:
        connection.close()


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield Channel(ours), theirs
    ours.close()
    theirs.close()


def test_a_message_survives_the_way_in_pieces(pair):
    channel, theirs = pair
    line = encode({"what": "fit", "n": 1})
    theirs.sendall(line[:5])
    assert channel.receive() == []
    theirs.sendall(line[5:] + line + line[:3])
    assert channel.receive() == [{"what": "fit", "n": 1}] * 2


def test_sending_never_blocks_and_loses_nothing(pair):
    channel, theirs = pair
    message = {"text": "x" * 60_000}
    for _ in range(50):  # 3 MB: more than any socket buffer
        channel.send(message)
    received = bytearray()
    while channel.pending:
        channel.flush()
        received += theirs.recv(1 << 20)
    theirs.setblocking(False)
    while len(received) < 50 * len(encode(message)):
        received += theirs.recv(1 << 20)
    assert [json.loads(line) for line in received.splitlines()] == [message] * 50


def test_a_message_of_exactly_the_limit_and_one_more_byte():
    room = MAX_LINE - len(encode({"t": ""}))
    assert len(encode({"t": "x" * room})) == MAX_LINE
    with pytest.raises(WireError, match="exceeds 65536"):
        encode({"t": "x" * (room + 1)})


@pytest.mark.parametrize("text", ["é\n\u2028", "\0\x1b", "😀", "\ud800", "\udcff😀"])
def test_any_text_arrives_on_one_line(text):
    line = encode({text: text})
    assert line.count(b"\n") == 1
    assert decode(line) == {text: text}


def test_an_emoji_takes_four_bytes():
    assert len(encode({"t": "😀" * 10_000})) == len(encode({"t": ""})) + 40_000


@pytest.mark.parametrize(
    "line", [b"\x80\x04K\x01.", b"[1]", b"{", b"[" * 60_000, b"1" * 5000, b"\xff"]
)
def test_garbage_is_refused(line):
    with pytest.raises(WireError):
        decode(line)


def test_an_endless_line_is_refused(pair):
    channel, theirs = pair
    sender = threading.Thread(target=theirs.sendall, args=(b"x" * (MAX_LINE + 1),))
    sender.start()
    with pytest.raises(WireError, match="longer than"):
        while select.select([channel.connection], [], [], 5.0)[0]:
            channel.receive()
    sender.join()


def test_the_end_of_the_other_side_closes_the_channel(pair):
    channel, theirs = pair
    theirs.close()
    assert channel.receive() == []
    assert channel.closed


def test_the_handshake_needs_the_token():
    challenge, nonce = new_challenge(), new_challenge()
    good = {"rank": 1, "nonce": nonce}
    good["proof"] = proof(TOKEN, "client", challenge, nonce, 1)
    rank, answer = verify(TOKEN, 2, challenge, good)
    assert rank == 1
    assert answer == proof(TOKEN, "server", challenge, nonce, 1)
    bad = [
        good | {"proof": answer},  # the server's own words, sent back
        good | {"rank": 0},
        good | {"rank": 2},
        good | {"rank": True},
        good | {"nonce": 3},
        good | {"proof": "é"},
        good | {"proof": HALF},
        good | {"nonce": HALF},
        {},
    ]
    for answer in bad:
        with pytest.raises(WireError):
            verify(TOKEN, 2, challenge, answer)
    with pytest.raises(WireError, match="wrong proof"):
        verify(TOKEN, 2, new_challenge(), good)  # a replay


def test_the_token_never_travels():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client = threading.Thread(
            target=lambda: pytest.raises(WireError, introduce, ours, TOKEN, 1, 5.0)
        )
        client.start()
        theirs.sendall(encode({"challenge": new_challenge()}))
        heard = theirs.recv(4096)
        theirs.sendall(encode({"proof": "0" * 64}))
        client.join()
    assert TOKEN.hex().encode() not in heard
    assert TOKEN not in heard


@pytest.mark.parametrize("answers", [[HALF], ["x", HALF]])
def test_a_client_refuses_what_no_server_says(answers):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for key, text in zip(("challenge", "proof"), answers, strict=False):
            theirs.sendall(encode({key: text}))
        with pytest.raises(WireError):
            introduce(ours, TOKEN, 1, 5.0)


def test_a_channel_that_fails_takes_no_other_along(pair):
    channel, theirs = pair
    second, others = socket.socketpair()
    heard, ended = threading.Event(), threading.Event()
    loop = Loop("test", lambda: None)
    loop.add(channel, lambda message: int("x"), ended.set)
    loop.add(Channel(second), lambda message: heard.set(), lambda: None)
    loop.start()
    theirs.sendall(encode({}))
    assert ended.wait(5.0)
    others.sendall(encode({}))
    assert heard.wait(5.0)
    loop.stop(1.0)
    others.close()


def test_a_wrong_token_is_refused(server):
    with pytest.raises(TfdistError, match="cannot reach rank 0.*no greeting"):
        connect(["127.0.0.1"], server.port, secrets.token_bytes(32), 1, 1.0)


def test_a_client_refuses_a_wrong_server():
    other = serve(secrets.token_bytes(32))
    right = serve(TOKEN)
    with pytest.raises(TfdistError, match="cannot reach rank 0"):
        connect(["127.0.0.1"], other.port, TOKEN, 0, 1.0)
    connect(["127.0.0.1"], right.port, TOKEN, 0, 5.0).close()  # the control
    other.stop(1.0)
    right.stop(1.0)


def test_addresses_are_tried_until_one_answers(server):
    with socket.create_server(("127.0.0.2", server.port)):  # accepts, says nothing
        addresses = ["127.0.0.3", "no.such.host.invalid", "127.0.0.2", "127.0.0.1"]
        connect(addresses, server.port, TOKEN, 1, 20.0).close()


def test_a_rank_cannot_be_taken_over(server):
    with connect(["127.0.0.1"], server.port, TOKEN, 1, 5.0):
        with pytest.raises(TfdistError, match="cannot reach"):
            connect(["127.0.0.1"], server.port, TOKEN, 1, 0.5)


@pytest.mark.parametrize("kind", [Link, partial(Meeting, server=None, offer=None)])
def test_a_lost_host_is_noticed_by_who_sends_to_it(server, kind):
    def limit(connection):  # in milliseconds
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    connection = connect(["127.0.0.1"], server.port, TOKEN, 1, 5.0)
    assert limit(connection) == 0  # as for the wrappers, whose launcher may be paused
    end = kind(connection, 1)
    assert limit(connection) == 25_000
    end.close(1.0) if kind is Link else end.close()


def test_strangers_do_not_disturb(server, knock):
    links = [
        Link(connect(["127.0.0.1"], server.port, TOKEN, rank, 5.0), rank)
        for rank in range(2)
    ]
    garbage = [b"GET / HTTP/1.1\r\n\r\n", b"\x80\x04.\n", b"x" * 100_000, b"{}\n", b""]
    garbage += [encode({"rank": 1, "nonce": "x", "proof": HALF})]
    for text in garbage:
        stranger = knock()
        try:
            stranger.sendall(text)
        except OSError:
            pass  # the server hung up before the end of it
    for _ in range(80):  # more than may be unproven at a time
        knock()
    entry = {"what": "fit", "digest": "d", "timeout": 10.0}
    for link in links:
        link.post(0, entry, {})
    for link in links:
        assert link.wait(0, 10.0)
        assert link.verdict() is None
    for link in links:
        link.close(1.0)


def test_strangers_are_hung_up_on(knock):
    stranger = knock()
    stranger.settimeout(5.0)
    assert b"challenge" in stranger.recv(4096)
    stranger.sendall(b'{"rank": 0, "nonce": "", "proof": ""}\n')
    assert stranger.recv(4096) == b""


def test_details_of_any_size_travel_in_parts(server):
    links = [
        Link(connect(["127.0.0.1"], server.port, TOKEN, rank, 5.0), rank)
        for rank in range(2)
    ]
    for rank, link in enumerate(links):
        details = {
            f"variable {number} " + "é" * 300: "\n" * 999 for number in range(99)
        }
        details["the odd one"] = f"of rank {rank}"
        entry = {"what": "fit", "digest": str(rank), "timeout": 10.0}
        link.post(0, entry, details)
    for link in links:
        assert link.wait(0, 10.0)
        expected = "details['the odd one']: rank 0: of rank 0; rank 1: of rank 1"
        assert expected in str(link.verdict())
        link.close(1.0)


def test_loopback_is_the_last_resort():
    assert candidates("10.0.0.1") == ["10.0.0.1"]
    everywhere = candidates(None)
    assert everywhere[-1] == "127.0.0.1"
    assert everywhere.count("127.0.0.1") == 1
    assert not any(address.startswith("fe80") for address in everywhere)


def test_the_stall_limit(monkeypatch):
    monkeypatch.delenv("TFDIST_STALL_TIMEOUT", raising=False)
    assert stall_limit(None) == 600.0
    monkeypatch.setenv("TFDIST_STALL_TIMEOUT", "90")
    assert stall_limit(None) == 90.0
    assert stall_limit(5) == 5.0
    monkeypatch.setenv("TFDIST_STALL_TIMEOUT", "inf")
    assert stall_limit(None) == float("inf")
    for wrong in ("-1", "0", "soon", "nan", ""):
        monkeypatch.setenv("TFDIST_STALL_TIMEOUT", wrong)
        with pytest.raises(ValueError, match="HINT: Set TFDIST_STALL_TIMEOUT"):
            stall_limit(None)


def test_the_wording():
    assert name_ranks([1]) == "rank 1"
    assert name_ranks({2, 0}) == "ranks 0,2"
    assert name_ranks([6, 0, 1, 2, 3, 5]) == "ranks 0-3,5,6"
    assert group({0: "a", 1: "b", 2: "a"}) == "ranks 0,2: a; rank 1: b"
    assert differences({0: {"k": "1"}, 1: {"k": "1"}}) == ""
    assert differences({0: {"k": "1"}, 1: {"k": "2"}}) != ""
