"""Writing that survives a crash.

Nothing here knows what the bytes mean. A file written by these functions either has its whole content under its
name or does not exist under it, also after the machine lost power (as far as its disk obeys fsync).
"""

import errno
import fcntl
import hashlib
import math
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcache.errors import OutputError
from kdcache.files.failpoints import reach
from kdcache.files.locations import STANDARD

STALE_SECONDS = 24 * 3600.0
# Between two looks whether a lock is free.
_LOCK_SECONDS = 0.02
_TEMPORARY = ".tmp-"
_SHA256 = re.compile("[0-9a-f]{64}")


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def is_sha256(text: str) -> bool:
    """Whether `text` is written as a SHA-256 is; where one becomes a file's name, nothing else may."""
    return _SHA256.fullmatch(text) is not None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk; without it a renamed file can vanish in a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that says who writes it, so that others can tell whether it was abandoned."""
    return path.with_name(f"{_TEMPORARY}{path.name}~{socket.gethostname()}~{os.getpid()}~{secrets.token_hex(4)}")


def remove_abandoned(folder: Path) -> int:
    """Remove temporary files whose owner is dead (same host) or that are older than a day; return how many."""
    removed = 0
    for path in folder.glob(f"{_TEMPORARY}*"):
        try:
            if _abandoned(path):
                path.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed


def _abandoned(path: Path) -> bool:
    if time.time() - path.stat().st_mtime > STALE_SECONDS:
        return True
    _, host, pid, _ = path.name.rsplit("~", 3) if path.name.count("~") >= 3 else ("", "", "", "")
    return host == socket.gethostname() and pid.isdecimal() and not _alive(int(pid))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False  # no process has a number that does not fit
    except PermissionError:
        return True
    return True


@contextmanager
def locked(folder: Path, patience: float = math.inf) -> Iterator[bool]:
    """Hold the lock of `folder`, a file in it, against other processes and threads that ask for it.

    Yields whether it is held: not so where others have held it for `patience` seconds.
    """
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        latest = time.monotonic() + patience
        while not (held := try_lock(handle)) and time.monotonic() < latest:
            time.sleep(_LOCK_SECONDS)
        yield held
    finally:
        os.close(handle)


def try_lock(handle: int) -> bool:
    """Take the lock of an open file if nobody holds it; return whether it is held now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def storage_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn what the operating system says about a failed write into an `OutputError` with a remedy.

    `needed` is the number of bytes that were to be written.
    """
    try:
        yield
    except OSError as error:
        wanted = "" if needed is None else f" ({needed:,} bytes were to be written)"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "Make room (or raise the quota or `ulimit -f`) and run the same command again: it continues."
        else:
            remedy = "Nothing was committed. Check the place and run the same command again: it continues."
        raise OutputError(f"{path}: cannot be written{wanted}: {error.strerror or error}. {remedy}") from error


def _write_synced(path: Path, data: bytes | memoryview) -> None:
    view = memoryview(data)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        reach("file-opened")
        # os.write may write less than asked, without an error.
        while view:
            view = view[os.write(handle, view) :]
        reach("file-written")
        os.fsync(handle)
        reach("file-synced")
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` under `path`, replacing what was there, in one atomic step.

    Raises:
        OutputError: the place is full, read-only or gone; the old content is untouched.
    """
    with storage_errors(path, len(data)):
        temporary = temporary_name(path)
        try:
            _write_synced(temporary, data)
            temporary.replace(path)
            reach("file-replaced")
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def check_replaceable(output: Path, mark: str, kind: str) -> None:
    """Refuse to replace a file that kdcache did not write.

    Args:
        output: the file that is to be written.
        mark: text that every file of this kind contains if kdcache wrote it, and no other file.
        kind: what the message calls the file.

    Raises:
        OutputError: the file exists without the mark, or its folder is missing.
    """
    if not output.parent.is_dir():
        raise OutputError(f"{output}: its folder does not exist. Create it first.")
    if output.exists() and not (output.is_file() and mark.encode() in output.read_bytes()):
        raise OutputError(f"{output}: exists, and is no {kind} that kdcache drew. Move it away first.")


def write_output(path: Path, data: bytes) -> None:
    """Write `data` into a file as `replace_file` does, or at once to standard output.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: nobody reads standard output any more.
    """
    if path != STANDARD:
        replace_file(path, data)
        return
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"Standard output cannot be written: {error.strerror}.") from error


def publish_file(path: Path, data: bytes | memoryview) -> bool:
    """Write `data` under `path` if that name is free, in one atomic step; return whether it was.

    Raises:
        OutputError: the place is full, read-only or gone; nothing was published.
    """
    with storage_errors(path, len(data)):
        temporary = temporary_name(path)
        try:
            _write_synced(temporary, data)
            published = _publish(temporary, path)
            reach("file-published")
            _sync_name(path, published)
        finally:
            temporary.unlink(missing_ok=True)
        return published


def _sync_name(path: Path, published: bool) -> None:
    try:
        sync_folder(path.parent)
    except OSError:
        # A name that may not survive a power cut must not be taken for one that does.
        if published:
            path.unlink(missing_ok=True)
        raise


def _publish(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        # NFS can lose the answer to a link that worked and report EEXIST for the repetition.
        return os.path.samefile(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        return _publish_without_links(temporary, path)
    return True


def _publish_without_links(temporary: Path, path: Path) -> bool:
    """For file systems without hard links: whoever creates the lock may rename onto the free name."""
    lock = path.with_name(f".lock-{path.name}")
    try:
        os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        raise OutputError(
            f"{lock}: another process is publishing this file, or died doing so. This file system has no hard links; "
            "if no other process works on this folder, remove the lock and run the same command again."
        ) from None
    try:
        if path.exists():
            return False
        temporary.rename(path)
        return True
    finally:
        lock.unlink(missing_ok=True)
