"""Places that a user names: paths of this machine, URLs, whose secrets are never shown, and the folder of copies."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from kdcache.errors import UsageError
from kdcache.settings import EXPERT, Option, check_fields

# The path of standard input where a text is read, and of standard output where one is written.
STANDARD = Path("-")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
# Whatever stands before the last @ of the authority is a name and a password; a query can be a signature.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://)([^\s/]*@)?([^\s?#'\"]*)([?#][^\s'\"]*)?")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGT]?)B?", re.IGNORECASE)


def is_remote(location: str) -> bool:
    """Whether `location` is a URL."""
    return _SCHEME.match(location) is not None


def is_web(location: str) -> bool:
    """Whether `location` is a URL that is fetched by HTTP."""
    return urlsplit(location).scheme.lower() in ("http", "https")


def url_of(location: str, name: str) -> str:
    """The URL of the file `name` below `location`; the query of a web address, such as a signature, stays behind it."""
    if not is_web(location):
        return f"{location.rstrip('/')}/{name}"
    parts = urlsplit(location)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def check_local(location: str) -> None:
    """Raise UsageError if what is to be written would go to a URL, which as a path would be a folder named `s3:`."""
    if is_remote(location):
        raise UsageError(
            f"{redacted(location)}: kdcache writes on this machine only. Give a plain path; what was written there can "
            "be copied to a URL afterwards."
        )


def redacted(text: str) -> str:
    """`text` with the user names, passwords and queries of all URLs in it taken out."""
    return _URL.sub(_without_secrets, text)


def printable(text: str) -> str:
    r"""`text`, the name of a file, with \xNN for each byte that is not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _without_secrets(url: re.Match[str]) -> str:
    scheme, user, path, query = url.groups()
    return f"{scheme}{'…@' if user else ''}{path}{'?…' if query else ''}"


def parse_size(text: str, option: str) -> int:
    """The bytes that a size such as `50GB` means; K, M, G and T are powers of 1,000.

    Raises:
        UsageError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} takes a size such as 500MB or 50GB, not {text}.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _temporary_folder() -> Path:
    """A folder of this user alone, where there is no home.

    Raises:
        UsageError: it is another user's, who could read what is kept there.
    """
    folder = Path(tempfile.gettempdir()) / f"kdcache-{os.getuid()}"
    if os.path.lexists(folder) and folder.lstat().st_uid != os.getuid():
        raise UsageError(f"{folder}: belongs to another user. Give a folder with --cache-folder DIR.")
    return folder


@contextmanager
def utf8_folder(folder: Path) -> Iterator[Path]:
    """A path to an existing folder that is UTF-8, since safetensors and CTranslate2 open no other.

    Raises:
        OSError: it cannot be opened.
    """
    if printable(str(folder)) == str(folder):
        yield folder
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where copies of remote shards are kept."""

    folder: str | None = Option(
        "Folder for copies of the shards of a remote cache.",
        EXPERT,
        name="cache_folder",
        metavar="DIR",
        default_words="kdcache in $XDG_CACHE_HOME or ~/.cache, or a temporary folder where there is no home",
        test=check_local,
    ).default(None)
    limit: int = Option(
        "Largest size of all copies together; the least recently used ones are deleted first.",
        EXPERT,
        name="cache_limit",
        metavar="SIZE",
        default_words="50GB",
        parse=parse_size,
    ).default(50 * 10**9)

    @property
    def path(self) -> Path:
        """The folder."""
        if self.folder is not None:
            return Path(self.folder)
        if given := os.environ.get("XDG_CACHE_HOME"):
            return Path(given) / "kdcache"
        home = Path(os.path.expanduser("~"))
        folder = home / ".cache" / "kdcache"
        if any(os.access(place, os.W_OK) for place in (folder, folder.parent, home)):
            return folder
        return _temporary_folder()

    def check(self) -> None:
        """Raise UsageError if the folder is a URL."""
        check_fields(self)
