"""A web server on this machine that misbehaves on demand, and how to look at what came from it."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import caches

from kdcache.cache.reader import CacheReader
from kdcache.files.locations import StoreConfig
from kdcache.process.prefetch import THREAD_NAME

SHARDS = [f"shards/0000{number}.h5" for number in range(3)]


class Server(ThreadingHTTPServer):
    """Serves a folder below /cache.

    Attributes:
        faults: by name of file, what happens to its next requests, in this order; "" is an undisturbed one.
        always: by name of file, what happens to all of them.
        requests: how often each file was asked for.
        before: called with the name of a file before it is answered.
        sign: the query that every request must have, or None.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.faults: defaultdict[str, list[str]] = defaultdict(list)
        self.always: dict[str, str] = {}
        self.requests: Counter[str] = Counter()
        self.before: Callable[[str], None] = lambda name: None
        self.sign: str | None = None
        self.released = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/cache"

    def next_fault(self, name: str) -> str:
        with self.lock:
            self.requests[name] += 1
            waiting = self.faults[name]
            return waiting.pop(0) if waiting else self.always.get(name, "")

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        name = parts.path.removeprefix("/cache/")
        fault = self.server.next_fault(name)
        self.server.before(name)
        path = self.server.folder / name
        if fault.isdecimal():
            self.send_error(int(fault))
        elif self.server.sign is not None and parts.query != self.server.sign:
            self.send_error(403)
        elif not path.is_file():
            self.send_error(404)
        else:
            getattr(self, f"send_{fault or 'whole'}")(path.read_bytes())

    def answer(self, length: int | None) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def send_whole(self, data: bytes) -> None:
        self.answer(len(data))
        self.wfile.write(data)

    def send_truncated(self, data: bytes) -> None:
        """Less than was promised."""
        self.answer(len(data))
        self.wfile.write(data[: len(data) // 2])

    def send_short(self, data: bytes) -> None:
        """Less, without a promise: nothing but the length or the hash can tell."""
        self.answer(None)
        self.wfile.write(data[: len(data) // 2])

    def send_empty(self, data: bytes) -> None:
        self.answer(0)

    def send_flipped(self, data: bytes) -> None:
        """As long as it should be."""
        self.answer(len(data))
        middle = len(data) // 2
        self.wfile.write(data[:middle] + bytes([data[middle] ^ 0x81]) + data[middle + 1 :])

    def send_longer(self, data: bytes) -> None:
        """An answer without an end, as far as anybody reads it."""
        self.answer(None)
        self.wfile.write(data)
        while True:
            self.wfile.write(bytes(1 << 20))

    def send_reset(self, data: bytes) -> None:
        """Half of it, then a reset of the connection."""
        self.answer(len(data))
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def send_silent(self, data: bytes) -> None:
        """Half of it, then nothing until the test has ended."""
        self.answer(len(data))
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        self.server.released.wait(60)

    def log_message(self, *_arguments: object) -> None:
        """The screen is for the tests."""


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """A running server of `folder`."""
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def fetchers() -> list[threading.Thread]:
    """The threads that fetch ahead."""
    return [one for one in threading.enumerate() if one.name.startswith(THREAD_NAME)]


def same(reader: CacheReader, local: Path) -> bool:
    """Whether every shard, in an order of its own, and the tokenizer are those of the cache in `local`."""
    other = CacheReader(local)
    order = [2, 0, 1]
    found = list(reader.read(order))
    return reader.manifest == other.manifest and all(
        caches.equal(one, other.shard(index)) for index, one in zip(order, found, strict=True)
    )


def copies(store: StoreConfig) -> list[Path]:
    """The local copies that a store holds."""
    return sorted(path for path in store.path.iterdir() if len(path.name) == 64)
