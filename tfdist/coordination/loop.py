"""One daemon thread that serves several channels and leaves nothing behind."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable

from tfdist.coordination.wire import Channel, Message, WireError

_POLL = 0.2  # seconds between two ticks when nothing arrives


class Loop:
    """Selects over channels, hands over their messages, and ticks.

    Every callback runs in the loop's own thread, so what they touch needs no lock.
    `add` and `listen` are for before `start` and for callbacks.

    Args:
        name: The thread's name.
        on_tick: Called at least every 0.2 s.
    """

    def __init__(self, name: str, on_tick: Callable[[], None]):
        self._on_tick = on_tick
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._woken)
        self._channels: dict[Channel, Callable[[], None]] = {}
        self._listener: socket.socket | None = None
        self._stop_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        _living.add(self)

    def listen(
        self, listener: socket.socket, on_connection: Callable[[socket.socket], None]
    ) -> None:
        """Accepts connections from `listener`, which the loop closes at the end."""

        def accept() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:  # the stranger has already gone
                return
            on_connection(connection)

        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ, accept)

    def add(
        self,
        channel: Channel,
        on_message: Callable[[Message], None],
        on_end: Callable[[], None],
    ) -> None:
        """Serves a channel until its other side ends it or sends nonsense.

        Args:
            channel: The channel; the loop closes it.
            on_message: Called with each message; may raise WireError to refuse it.
                A ValueError, too, ends this channel alone, not those of the others.
            on_end: Called once, after the channel was closed.
        """

        def read() -> None:
            try:
                for message in channel.receive():
                    on_message(message)
            except (WireError, ValueError):
                channel.closed = True
            if channel.closed:
                self.drop(channel)

        self._channels[channel] = on_end
        self._selector.register(channel.connection, selectors.EVENT_READ, read)

    def drop(self, channel: Channel) -> None:
        """Closes a channel."""
        on_end = self._channels.pop(channel, None)
        if on_end is not None:
            channel.flush()
            self._selector.unregister(channel.connection)
            channel.close()
            on_end()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Makes the thread look for messages to send now; any thread may call it."""
        try:
            self._wake_write.send(b"\0")
        except OSError:
            pass  # full means that it is awake; closed, that there is nothing to do

    def stop(self, seconds: float) -> None:
        """Sends what is queued, within `seconds`, and ends the thread."""
        self._stop_at = time.monotonic() + seconds
        self.wake()
        if self._thread is not threading.current_thread():
            self._thread.join(seconds + 2 * _POLL)

    def close_sockets(self) -> None:
        """Closes every socket of this process, and says nothing to the other side."""
        sockets = [channel.connection for channel in self._channels]
        for one in (*sockets, self._listener, self._wake_read, self._wake_write):
            if one is not None:
                one.close()
        self._selector.close()

    def _run(self) -> None:
        try:
            going = True
            while going:
                # One more round follows the request to stop: what had arrived by
                # then (rank 0's own farewell) is still heard and passed on.
                stop_at = self._stop_at
                self._watch_writable()
                for key, _ in self._selector.select(_POLL):
                    key.data()
                for channel in list(self._channels):
                    channel.flush()
                self._on_tick()
                pending = any(channel.pending for channel in self._channels)
                going = stop_at is None or (pending and time.monotonic() < stop_at)
        finally:
            self.close_sockets()

    def _watch_writable(self) -> None:
        # A socket is nearly always writable: it is watched only with work to do.
        for channel in self._channels:
            key = self._selector.get_key(channel.connection)
            events = selectors.EVENT_READ
            if channel.pending:
                events |= selectors.EVENT_WRITE
            if key.events != events:
                self._selector.modify(channel.connection, events, key.data)

    def _woken(self) -> None:
        self._wake_read.recv(4096)


_living: weakref.WeakSet[Loop] = weakref.WeakSet()


def _close_in_child() -> None:
    # A forked data worker would hold the connection open after its parent died,
    # and nobody would notice that the rank is lost.
    for loop in list(_living):
        loop.close_sockets()


os.register_at_fork(after_in_child=_close_in_child)
