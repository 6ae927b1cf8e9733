"""Fetching files from a URL through fsspec: bounded, checked, and tried again where that can help.

Whatever comes from there may be hostile: nothing is read beyond a limit, and nothing returned that the caller's check
does not pass. Messages name the URL without its user name, password and query.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from kdcache.errors import CacheError, CorruptError, UsageError
from kdcache.files.locations import redacted

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 0.5
# Of a connection that says nothing.
SILENCE_SECONDS = 30.0
_BLOCK = 1 << 20
# Statuses of HTTP below 500 after which another attempt may do better: timeout, too early, too many requests.
_TRANSIENT = frozenset({408, 425, 429})

log = logging.getLogger("kdcache")

T = TypeVar("T")
Pause = Callable[[float], None]


class _TooLongError(Exception):
    """There is more than may be there."""


class Fetcher:
    """The files below one URL.

    Raises:
        UsageError: fsspec, or its part for this kind of URL, is not installed.
    """

    def __init__(self, location: str) -> None:
        self._location = location
        self.place = redacted(location)
        self._process, self._files, self._root = os.getpid(), *_connect(location)

    def __reduce__(self) -> tuple[type[Fetcher], tuple[str]]:
        return type(self), (self._location,)

    def place_of(self, name: str) -> str:
        """The URL of the file `name`, to be shown."""
        return redacted(_join(self._location, name))

    def fetch(self, name: str, most: int, use: Callable[[bytes], T], pause: Pause, missing: str = "missing.") -> T:
        """What `use` makes of the content of the file `name`, of at most `most` bytes.

        `use` raises CorruptError at content that it does not accept; then, and when the connection fails, the file is
        fetched again, after waits that double. `pause` waits some seconds, or raises CancelledError to end the work;
        it is called between blocks too.

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
                _raise_if_final(error, place, missing)
                kind, cause = type(error), _cause(error, most)
            if attempt < ATTEMPTS:
                log.warning(
                    "%s: attempt %s of %s failed: %s Trying again in %s s.", place, attempt, ATTEMPTS, cause, seconds
                )
                pause(seconds)
                seconds *= 2
        raise (CorruptError if kind is CorruptError else CacheError)(
            f"{place}: not fetched in {ATTEMPTS} attempts; the last one: {cause} Check the place and the network, then "
            "run the same command again."
        )

    def _download(self, name: str, most: int, pause: Pause) -> bytes:
        blocks = []
        length = 0
        with self._open(name, most) as file:
            while block := file.read(min(_BLOCK, most + 1 - length)):
                blocks.append(block)
                length += len(block)
                if length > most:
                    raise _TooLongError
                pause(0)
        return b"".join(blocks)

    def _open(self, name: str, most: int) -> Any:
        # A process that was forked has the connections of its parent, but not the thread that serves them.
        if self._process != os.getpid():
            self._process, self._files, self._root = os.getpid(), *_connect(self._location)
        # In one go; otherwise each block would be a request, and its server need not know of ranges.
        whole = {"block_size": 0, "size": most + 1} if _is_web(self._location) else {}
        return self._files.open(_join(self._root, name), "rb", **whole)


def _is_web(location: str) -> bool:
    return urlsplit(location).scheme.lower() in ("http", "https")


def _join(location: str, name: str) -> str:
    """The file `name` below `location`; the query of a web address, such as a signature, stays behind it."""
    if not _is_web(location):
        return f"{location.rstrip('/')}/{name}"
    parts = urlsplit(location)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def _connect(location: str) -> tuple[Any, str]:
    """The file system of a URL, and what the URL is called in it."""
    options: dict[str, Any] = {}
    try:
        import fsspec

        if _is_web(location):
            import aiohttp

            silence = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
            # As it was given: a signature need not fit an address that was written in another way.
            options = {"client_kwargs": {"timeout": silence}, "encoded": True}
        # Not shared with other users of the same library: the connections end with this object.
        files, root = fsspec.core.url_to_fs(location, skip_instance_cache=True, **options)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{redacted(location)}: no cache can be read from there: {redacted(str(error))}. Give a folder, or a URL "
            "such as s3://…, gs://… or https://…, for which pip install 'kdcache[remote]' installs what is needed."
        ) from None
    return files, str(root)


def _raise_if_final(error: Exception, place: str, missing: str) -> None:
    """Raise an error of kdcache if another attempt would end in the same way."""
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        raise CorruptError(f"{place}: {missing}") from None
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError" or status in (401, 403):
        raise CacheError(
            f"{place}: access is refused. The credentials come from the environment, as fsspec documents it for this "
            "kind of URL; check them, and run the same command again."
        ) from None
    if status is not None and 400 <= status < 500 and status not in _TRANSIENT:
        raise CacheError(f"{place}: the server refuses with HTTP status {status}. Check the URL.") from None


def _status(error: Exception) -> int | None:
    """The status of HTTP that an error carries, under the names that fsspec's back ends use."""
    for name in ("status", "code"):
        found = getattr(error, name, None)
        if str(found).isdecimal():
            return int(str(found))
    return None


def _cause(error: Exception, most: int) -> str:
    """What went wrong, as a sentence without secrets."""
    if isinstance(error, _TooLongError):
        return f"more than the {most:,} bytes that may be there."
    if isinstance(error, CorruptError):
        return str(error)
    if (status := _status(error)) is not None:
        return f"HTTP status {status}."
    said = redacted(str(error)).rstrip(".")
    return f"{type(error).__name__}: {said}." if said else f"{type(error).__name__}."
