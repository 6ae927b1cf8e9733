"""A cache at a URL, read through fsspec: bounded, tried again, verified, and its shards fetched ahead of use.

Whatever comes from there may be hostile: nothing is read beyond a limit, and nothing is returned that its check does
not pass. Messages name the URL without its user name, password and query. fsspec can keep copies of files itself, but
its folder has no limit and its copies are trusted by their names, so that those of `kdcache.cache.copies` are used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from kdcache.cache.cache_files import CacheFiles, Convert, GiveUp, check_committed
from kdcache.cache.copies import Copies
from kdcache.cache.plan import Plan
from kdcache.cache.schema import TOKENIZER_FOLDER
from kdcache.cache.shard_records import Manifest, ShardRecord
from kdcache.errors import CacheError, CorruptError, UsageError
from kdcache.files.locations import StoreConfig, is_web, redacted, url_of
from kdcache.files.run_records import log
from kdcache.files.strict_json import BYTES_MAX, parse_json
from kdcache.process.prefetch import Prefetch
from kdcache.text.tokenizer import FILES

ATTEMPTS = 3
FIRST_WAIT_SECONDS = 0.5
# A connection that says nothing for so long is given up.
SILENCE_SECONDS = 30.0
# Most of fetching a small file is waiting for its first byte, so several are fetched at a time.
THREADS = 4
# A thread that waits for a silent server is waited for so long when its results are no longer wanted.
_LEAVE_SECONDS = 1.0
# So many small shards are fetched ahead, as many as a window of pairs takes, and never more bytes.
AHEAD_SHARDS = 8
AHEAD_BYTES = 64 << 20
_BLOCK = 1 << 20
_CREDENTIALS = "The credentials come from the environment, as fsspec documents it for this kind of URL; check them."

T = TypeVar("T")
# Waits some seconds, or raises CancelledError to end the work.
Pause = Callable[[float], None]


class RemoteFiles(CacheFiles):
    """The files of a cache at a URL. It can be pickled and forked; every process makes its own connections.

    Raises:
        UsageError: fsspec, or its part for this kind of URL, is not installed, or the URL is one of this machine.
        OutputError: the folder of copies cannot be made or written.
    """

    def __init__(self, location: str, store: StoreConfig | None = None) -> None:
        if location.lower().startswith("file:"):
            raise UsageError(f"{redacted(location)}: give a folder of this machine by its plain path.")
        self._location, self._store = location, store
        self._copies = None if store is None else Copies(store)
        self._process, self._system, self._root = os.getpid(), *_connect(location)

    def __reduce__(self) -> tuple[type[RemoteFiles], tuple[str, StoreConfig | None]]:
        return type(self), (self._location, self._store)

    @property
    def place(self) -> str:
        """The URL without secrets."""
        return redacted(self._location)

    def place_of(self, name: str) -> str:
        """The URL of a file, without secrets."""
        return redacted(url_of(self._location, name))

    def json(self, name: str, missing: str = "missing.", convert: Convert = lambda value, place: value) -> Any:
        """Fetch a JSON file; one that `convert` does not accept is fetched again."""
        place = self.place_of(name)
        return self.fetch(name, BYTES_MAX, lambda data: convert(parse_json(data, place), place), missing=missing)

    def manifest(self, plan: Plan) -> Manifest:
        """Fetch `manifest.json`. Raise UsageError if the folder of copies is smaller than a shard."""
        manifest = super().manifest(plan)
        if self._copies is not None:
            self._copies.check_room(manifest.shards)
        return manifest

    def tokenizer_bytes(self) -> int:
        """Bytes of the tokenizer's files, which are fetched."""
        return sum(self.fetch(f"{TOKENIZER_FOLDER}/{name}", BYTES_MAX, len) for name in FILES)

    def shard_files(self) -> list[str]:
        """Nothing: what else lies at a URL cannot be seen everywhere."""
        return []

    def shard(self, record: ShardRecord, pause: Pause = time.sleep) -> bytes:
        """The local copy, or what is fetched, verified and copied. Raises OutputError if the copies were removed."""
        data = None if self._copies is None else self._copies.get(record)
        if data is None:
            place = self.place_of(record.path)
            data = self.fetch(record.path, record.bytes, lambda data: check_committed(data, record, place), pause)
            if self._copies is not None:
                self._copies.put(record, data)
        return data

    def shards(self, records: Sequence[ShardRecord], give_up: GiveUp) -> Generator[bytes, None, None]:
        """The shards in order, fetched ahead while those before are used; errors as of `shard`."""
        depth = max(1, min(AHEAD_SHARDS, AHEAD_BYTES // max((record.bytes for record in records), default=1)))
        with Prefetch(self.shard, records, depth, threads=THREADS, leave_seconds=_LEAVE_SECONDS) as fetched:
            for _ in records:
                yield fetched.take(give_up)

    def fetch(
        self, name: str, most: int, use: Callable[[bytes], T], pause: Pause = time.sleep, missing: str = "missing."
    ) -> T:
        """What `use` makes of the content of the file `name`, of at most `most` bytes.

        `use` raises CorruptError at content that it does not accept; then, and when the connection fails, the file is
        fetched again, after waits that double. `pause` is called for these waits and, with 0, between blocks.

        Raises:
            CorruptError: there is no such file (the message ends in `missing`), or its content stays wrong.
            CacheError: it cannot be reached, or access is refused.
        """
        place, seconds = self.place_of(name), FIRST_WAIT_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return use(self._download(name, most, pause))
            except CancelledError:
                raise
            except Exception as error:
                kind, cause, transient = _judged(error, missing)
            # Outside the except block, so that no traceback shows the address with its secrets.
            if not transient:
                raise kind(f"{place}: {cause}")
            if attempt < ATTEMPTS:
                said = "%s: attempt %s of %s failed: %s Trying again in %s s."
                log.warning(said, place, attempt, ATTEMPTS, cause, seconds)
                pause(seconds)
                seconds *= 2
        raise kind(
            f"{place}: not fetched in {ATTEMPTS} attempts; the last one: {cause} Check the place and the network, then "
            "run the same command again."
        )

    def _download(self, name: str, most: int, pause: Pause) -> bytes:
        # A process that was forked has the connections of its parent, but not the thread that serves them.
        if self._process != os.getpid():
            self._process, self._system, self._root = os.getpid(), *_connect(self._location)
        # In one go; otherwise each block would be a request, and its server need not know of ranges.
        whole = {"block_size": 0, "size": most + 1} if is_web(self._location) else {}
        data = bytearray()
        with self._system.open(url_of(self._root, name), "rb", **whole) as file:
            while block := file.read(min(_BLOCK, most + 1 - len(data))):
                data += block
                if len(data) > most:
                    raise CacheError(f"more than the {most:,} bytes that may be there.")
                pause(0)
        return bytes(data)


def _connect(location: str) -> tuple[Any, str]:
    """The file system of a URL, and what the URL is called in it."""
    options: dict[str, Any] = {}
    try:
        import fsspec

        if is_web(location):
            import aiohttp

            silence = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
            # As it was given: a signature need not fit an address that was written in another way.
            options = {"client_kwargs": {"timeout": silence}, "encoded": True}
        # Not shared with other users of the same library: the connections end with this object.
        system, root = fsspec.core.url_to_fs(location, skip_instance_cache=True, **options)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{redacted(location)}: no cache can be read from there: {redacted(str(error))}. Give a folder, or a URL "
            "such as s3://…, gs://… or https://…, for which pip install 'kdcache[remote]' installs what is needed."
        ) from None
    return system, str(root)


def _judged(error: Exception, missing: str) -> tuple[type[CacheError], str, bool]:
    """The error to raise, what went wrong in a sentence without secrets, and whether another attempt may do better."""
    if isinstance(error, CacheError):
        return type(error), str(error), True
    # Under the names that fsspec's back ends use; the hub's client has the status in the answer.
    places = ((error, "status"), (getattr(error, "response", None), "status_code"), (error, "code"))
    codes = (str(getattr(holder, name, "")) for holder, name in places)
    status = next((int(code) for code in codes if code.isdecimal()), 0)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return CorruptError, missing, False
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError" or status in (401, 403):
        return CacheError, f"access is refused. {_CREDENTIALS}", False
    if type(error).__name__ == "OfflineModeIsEnabled":
        return CacheError, "HF_HUB_OFFLINE keeps kdcache from the hub. Unset it, or give a folder.", False
    # After these three another attempt may do better: timeout, too early, too many requests.
    if 400 <= status < 500 and status not in (408, 425, 429):
        return CacheError, f"the server refuses with HTTP status {status}. Check the URL.", False
    if status:
        return CacheError, f"HTTP status {status}.", True
    message = redacted(str(error)).rstrip(".")
    return CacheError, f"{type(error).__name__}: {message}." if message else f"{type(error).__name__}.", True
