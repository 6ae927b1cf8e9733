"""The files of a cache: in a folder of this machine; `kdcache.cache.remote` has those at a URL."""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from kdcache.cache import schema
from kdcache.cache.plan import PLAN_FILE, Plan, plan_of, read_plan
from kdcache.cache.shard_records import Manifest, ShardRecord, manifest_of, read_manifest, record_of
from kdcache.errors import CacheError, CorruptError
from kdcache.files.atomic import is_sha256, sha256
from kdcache.files.strict_json import from_json, read_json
from kdcache.labels.verdict import HeldOut
from kdcache.text.tokenizer import FILES, Tokenizer

# Called now and then by whoever waits; what it raises ends the wait.
GiveUp = Callable[[], None]
Convert = Callable[[Any, str], Any]


class CacheFiles(ABC):
    """The files of a cache, wherever they lie. What is returned is checked as far as it can be checked by itself."""

    @property
    @abstractmethod
    def place(self) -> str:
        """The cache's location, to be shown; without secrets."""

    @abstractmethod
    def place_of(self, name: str) -> str:
        """The location of the file `name`, to be shown."""

    @abstractmethod
    def json(self, name: str, missing: str = "missing.", convert: Convert = lambda value, place: value) -> Any:
        """What `convert` makes of the content of a JSON file and its location.

        The error that says that there is no such file ends in `missing`.
        """

    @abstractmethod
    def shard(self, record: ShardRecord) -> bytes:
        """The bytes that `record` commits.

        Raises:
            CorruptError: what is there is missing, or not the bytes that were committed.
            CacheError: it cannot be reached.
        """

    @abstractmethod
    def shards(self, records: Sequence[ShardRecord], give_up: GiveUp) -> Generator[bytes, None, None]:
        """The bytes that each of `records` commits, in this order; errors as of `shard`."""

    @abstractmethod
    def shard_files(self) -> list[str]:
        """Names of all files in the folder of shards, sorted, as far as that can be seen."""

    @abstractmethod
    def tokenizer_bytes(self) -> int:
        """Bytes of the tokenizer's files."""

    def plan(self) -> Plan:
        """Read `plan.json`."""
        missing = f"there is none, so {self.place} is not a cache. Make one with kdcache dump-logits."
        return plan_of(self.json(PLAN_FILE, missing), self.place_of(PLAN_FILE))

    def manifest(self, plan: Plan) -> Manifest:
        """Read `manifest.json` and compare it with the plan."""
        missing = f"missing: the cache is incomplete. Complete it with kdcache {plan.made_by}, then copy it again."
        manifest: Manifest = self.json(
            schema.MANIFEST_FILE, missing, lambda value, place: manifest_of(value, plan, place)
        )
        return manifest

    def held_out(self) -> HeldOut | None:
        """Read how the teacher does on text that it did not learn from; None where nothing usable says it."""
        try:
            found: HeldOut = self.json(schema.HELD_OUT_FILE, convert=held_out_of)
        except CacheError:
            return None
        return found

    def record(self, plan: Plan, index: int) -> ShardRecord:
        """Read the commit record of one shard and compare it with the plan."""
        name = f"{schema.SHARDS_FOLDER}/{schema.record_name(index)}"
        return record_of(self.json(name), plan, index, self.place_of(name))

    def tokenizer(self) -> Tokenizer:
        """Read the tokenizer's two files, whichever tokenizer it is."""
        folder = schema.TOKENIZER_FOLDER
        return Tokenizer.parse(lambda name: self.json(f"{folder}/{name}"), self.place_of(folder))


class FolderFiles(CacheFiles):
    """The files of a cache in a folder of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def place(self) -> str:
        """The path."""
        return str(self._path)

    def place_of(self, name: str) -> str:
        """The path of a file."""
        return str(self._path / name)

    def json(self, name: str, missing: str = "missing.", convert: Convert = lambda value, place: value) -> Any:
        """What `convert` makes of a JSON file."""
        return convert(read_json(self._path / name), self.place_of(name))

    def plan(self) -> Plan:
        """Read `plan.json`; where it is missing, the error says whether there is a folder."""
        return read_plan(self._path)

    def manifest(self, plan: Plan) -> Manifest:
        """Read `manifest.json`; where it is missing, the error says how many shards are committed."""
        return read_manifest(self._path, plan)

    def shard(self, record: ShardRecord) -> bytes:
        """Read one shard."""
        return committed_bytes(self._path / record.path, record, follow=True)

    def shards(self, records: Sequence[ShardRecord], give_up: GiveUp) -> Generator[bytes, None, None]:
        """Read one shard after the other, each when it is asked for."""
        yield from map(self.shard, records)

    def shard_files(self) -> list[str]:
        """What the folder of shards lists; nothing where it is missing."""
        return sorted(path.name for path in (self._path / schema.SHARDS_FOLDER).glob("*"))

    def tokenizer_bytes(self) -> int:
        """What the file system says; a file that is missing takes no room."""
        paths = [self._path / schema.TOKENIZER_FOLDER / name for name in FILES]
        return sum(path.stat().st_size for path in paths if path.is_file())


def held_out_of(value: Any, place: str) -> HeldOut:
    """The figures that parsed JSON is. Raise CorruptError, opening with `place`, if they are none."""
    found = from_json(HeldOut, value, place)
    if not (found.loss >= 0 and 0 <= found.accuracy <= 1 and found.targets > 0 and is_sha256(found.text)):
        raise CorruptError(f"{place}: figures that no teacher can have.")
    return found


def committed_bytes(path: Path, record: ShardRecord, *, follow: bool = False) -> bytes:
    """The content of a shard's file, if it is exactly what its record commits.

    Raises:
        CorruptError: it is missing, a link where none is to `follow`, or other bytes.
    """
    return check_committed(regular_bytes(path, record.bytes, follow=follow), record, str(path))


def check_committed(data: bytes, record: ShardRecord, place: str) -> bytes:
    """Return `data`. Raise CorruptError, opening with `place`, unless it is exactly what the record commits."""
    if len(data) != record.bytes:
        raise CorruptError(f"{place}: {len(data):,} bytes, its record commits {record.bytes:,}.")
    if sha256(data) != record.sha256:
        raise CorruptError(f"{place}: its SHA-256 is not the committed one: the file was changed or damaged.")
    return data


def regular_bytes(path: Path, most: int, *, follow: bool = False) -> bytes:
    """The content of a regular file of at most `most` bytes; no pipe or device is read, nor a link without `follow`.

    Raises:
        CorruptError: it is something else, larger, missing, or cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for whoever writes into it.
        flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CorruptError(f"{path}: not a regular file.")
            if status.st_size > most:
                raise CorruptError(f"{path}: {status.st_size:,} bytes, at most {most:,} belong there.")
            return file.read(most)
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        if error.errno in (errno.ENOENT, errno.ELOOP):
            problem = "missing" if not path.is_symlink() else "a link to nothing" if follow else "a link"
        raise CorruptError(f"{path}: {problem}.") from error
