"""A plain socket's transfer between two hosts, both ways at once, as a ring has it.

python raw_tcp.py listen                    on one host
python raw_tcp.py connect ADDRESS BYTES     on the other; prints seconds
"""

from __future__ import annotations

import socket
import sys
import threading
import time

PORT, PIECE = 5000, 1 << 18


def exchange(connection: socket.socket, size: int) -> None:
    """Sends and receives so many bytes."""
    sender = threading.Thread(target=connection.sendall, args=[bytes(size)])
    sender.start()
    left, space = size, bytearray(PIECE)
    while left > 0:
        received = connection.recv_into(space, min(PIECE, left))
        if received == 0:
            raise ConnectionError("the other side has closed")
        left -= received
    sender.join()


def main() -> None:
    """Plays one of the two hosts."""
    if sys.argv[1] == "listen":
        with socket.create_server(("", PORT)) as server:
            print("ready", flush=True)
            connection, _ = server.accept()
            with connection:
                exchange(connection, int.from_bytes(connection.recv(8), "big"))
        return
    size = int(sys.argv[3])
    with socket.create_connection((sys.argv[2], PORT), timeout=120) as connection:
        connection.sendall(size.to_bytes(8, "big"))
        began = time.perf_counter()
        exchange(connection, size)
        print(time.perf_counter() - began)


if __name__ == "__main__":
    main()
