"""The connections between the processes of one run, by which all end, in one line, when one is gone.

JAX's runtime ends a process by abort(), with a page of C++ stack, as soon as its connection to process 0 closes. So its
messages are relayed: process 0 listens on the network, each other process connects to it once, and JAX itself sees only
Unix sockets that stay open.
"""

import contextlib
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import jax

from digits_jax.errors import UserError

_DATA, _BEAT, _GONE, _BYE = range(4)  # kinds of frames: for JAX, a sign of life, why all end, an orderly end
_HEADER = struct.Struct("!BI")  # kind and number of bytes
_HELLO = struct.Struct("!10sII")  # number and count of processes
_CHUNK = 2**16


def gather(listener: socket.socket, count: int, wait: int) -> dict[int, socket.socket]:
    """Returns the connections of process 0; raises a UserError that names the processes that do not come in time."""
    links: dict[int, socket.socket] = {}
    deadline = time.monotonic() + wait
    while missing := [str(number) for number in range(1, count) if number not in links]:
        if time.monotonic() > deadline:
            for link in links.values():
                link.close()
            raise UserError(f"process {', '.join(missing)} did not come within {wait} seconds")
        listener.settimeout(1)
        # A stranger is not let in; a process tries again.
        with contextlib.suppress(OSError, struct.error), listener.accept()[0] as link:
            link.settimeout(1)
            name, number, its_count = _HELLO.unpack(link.recv(_CHUNK))
            if name == b"digits_jax" and 0 < number < count == its_count:
                links[number] = link.dup()
    listener.close()
    return links


def join(address: tuple[str, int], process: int, count: int, wait: int) -> dict[int, socket.socket]:
    """Returns the connection to process 0, once all have come; raises a UserError if they do not come in time."""
    reason: object = "it waits for the others, or is no process 0"
    deadline = time.monotonic() + wait
    while (remaining := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=remaining) as link:
                link.sendall(_HELLO.pack(b"digits_jax", process, count))
                if link.recv(_HEADER.size) == _HEADER.pack(_BEAT, 0):
                    return {0: link.dup()}
            reason = f"it is not process 0 of {count}"
        except OSError as error:
            reason = reason if isinstance(error, TimeoutError) else error.strerror
        time.sleep(0.1)
    raise UserError(f"process 0 did not answer at {address[0]}:{address[1]} within {wait} seconds ({reason})")


class Peers:
    """The connections of process 0 to all others, or of another to process 0, watched and used by JAX.

    A process is gone when its connection closes or is silent for `timeout` seconds.
    """

    def __init__(self, links: dict[int, socket.socket], timeout: int, path: Path) -> None:
        """Starts to relay to JAX's client, which connects to a Unix socket of this path, or to its service there."""
        self._links, self._timeout, self._path = links, timeout, path
        self._sending, self._ending = threading.Lock(), threading.Lock()
        self._server = socket.socket(socket.AF_UNIX) if 0 in links else None
        if self._server:
            self._server.bind(str(path))
            self._server.listen()
        self._watches = [threading.Thread(target=self._watch, args=(number,), daemon=True) for number in links]
        for thread in [*self._watches, threading.Thread(target=self._beat, daemon=True)]:
            thread.start()

    def end(self, text: str) -> NoReturn:
        """Ends this process and the others for this reason."""
        self._ending.acquire()  # for good: of several that are gone at once, one is reported
        try:
            self._send(_GONE, text.encode()[:_CHUNK])
            print(f"error: {text}; start all again to resume from the last checkpoint", file=sys.stderr, flush=True)
        finally:
            os._exit(1)  # an orderly end would wait for the others

    def leave(self) -> None:
        """Ends JAX's runtime, which waits for the others; from then on a connection that closes is no loss."""
        timer = threading.Timer(10 * self._timeout, self.end, ["the other processes do not end"])
        timer.daemon = True
        timer.start()
        jax.distributed.shutdown()
        self._send(_BYE)
        for thread in self._watches:
            thread.join(self._timeout)

    def _watch(self, number: int) -> None:
        link = self._links[number]
        link.settimeout(self._timeout)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            jax_side = self._server.accept()[0] if self._server else _connect(self._path)
            threading.Thread(target=self._forward, args=(jax_side, number), daemon=True).start()
            frames = link.makefile("rb")
            while True:
                kind, size = _HEADER.unpack(frames.read(_HEADER.size))
                data = frames.read(min(size, _CHUNK))
                if kind == _GONE:
                    self.end(data.decode(errors="replace"))
                if kind == _BYE:
                    return
                with contextlib.suppress(OSError):  # JAX's runtime has ended
                    jax_side.sendall(data)
        except (OSError, struct.error) as error:
            how = f"silent for {self._timeout} seconds" if isinstance(error, TimeoutError) else "connection closed"
            self.end(f"process {number} is gone ({how})")

    def _forward(self, jax_side: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            while data := jax_side.recv(_CHUNK):
                self._send(_DATA, data, number)

    def _beat(self) -> None:
        while True:  # the first one tells the others that all have come
            self._send(_BEAT)
            time.sleep(self._timeout / 4)

    def _send(self, kind: int, data: bytes = b"", number: int | None = None) -> None:
        for link in self._links.values() if number is None else [self._links[number]]:
            with self._sending, contextlib.suppress(OSError):  # `_watch` notices
                link.sendall(_HEADER.pack(kind, len(data)) + data)


def _connect(path: Path) -> socket.socket:
    """Returns a connection to the Unix socket, as soon as one listens there."""
    while True:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(path))
            return connection
        time.sleep(0.05)
