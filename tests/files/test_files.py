"""Writing that survives crashes, races, full disks and file systems without hard links."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import ROOT

from kdcache.errors import OutputError
from kdcache.files import atomic

NO_LINKS = """
#include <errno.h>
int link(const char *a, const char *b) { errno = EPERM; return -1; }
int linkat(int d, const char *a, int e, const char *b, int f) { errno = EPERM; return -1; }
"""
RACER = """
import sys, time
from pathlib import Path
from kdcache.errors import OutputError
from kdcache.files.atomic import publish_file
folder, me = Path(sys.argv[1]), sys.argv[2]
(folder / f"ready-{me}").touch()
while not (folder / "go").exists():
    pass
won = []
for i in range(int(sys.argv[3])):
    try:
        if publish_file(folder / f"file-{i}", me.encode() * 5000):
            won.append(i)
    except OutputError as error:
        assert ".lock-" in str(error)
print(*won)
"""


def start(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Run `code` in a Python of its own that finds kdcache."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    return output


@pytest.fixture(scope="module")
def no_links(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that makes every hard link of a process fail as on FAT; preloaded, it stands in for such a disk."""
    folder = tmp_path_factory.mktemp("no_links")
    (folder / "no_links.c").write_text(NO_LINKS)
    command = ["gcc", "-shared", "-fPIC", "-o", str(folder / "no_links.so"), str(folder / "no_links.c")]
    subprocess.run(command, check=True)
    return str(folder / "no_links.so")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_sha256_of_a_known_text() -> None:
    """The hash is SHA-256 as FIPS 180-2 gives it for "abc"."""
    assert atomic.sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_replace_leaves_the_new_content_alone(tmp_path: Path) -> None:
    """Replacing writes a new file or a new content, and leaves nothing else behind."""
    for data in (b"one", b"", b"three" * 100_000):
        atomic.replace_file(tmp_path / "a", data)
        assert (tmp_path / "a").read_bytes() == data
        assert names(tmp_path) == ["a"]


def test_who_reads_while_a_file_is_replaced_keeps_the_old_one(tmp_path: Path) -> None:
    """A handle opened before a replacement reads the old content to its end: its bytes are not written over."""
    (tmp_path / "a").write_bytes(b"old" * 100)
    with (tmp_path / "a").open("rb") as handle:
        atomic.replace_file(tmp_path / "a", b"new content")
        assert handle.read() == b"old" * 100
    assert (tmp_path / "a").read_bytes() == b"new content"


def test_publish_never_replaces(tmp_path: Path) -> None:
    """The first publication wins, also over an empty file or a folder of that name."""
    assert atomic.publish_file(tmp_path / "a", b"one") is True
    assert atomic.publish_file(tmp_path / "a", memoryview(b"two")) is False
    (tmp_path / "empty").touch()
    assert atomic.publish_file(tmp_path / "empty", b"two") is False
    (tmp_path / "folder").mkdir()
    assert atomic.publish_file(tmp_path / "folder", b"two") is False
    assert (tmp_path / "a").read_bytes() == b"one"
    assert names(tmp_path) == ["a", "empty", "folder"]


def test_a_reader_sees_old_or_new_and_nothing_between(tmp_path: Path) -> None:
    """While another process replaces a file over and over and is killed, every read finds one whole content."""
    code = """
import sys
from pathlib import Path
from kdcache.files.atomic import replace_file
while True:
    for letter in b"ab":
        replace_file(Path(sys.argv[1]), bytes([letter]) * 300_000)
"""
    path = tmp_path / "file"
    atomic.replace_file(path, b"a" * 300_000)
    process = start(code, path)
    seen = set()
    deadline = time.monotonic() + 20
    while len(seen) < 2 and time.monotonic() < deadline:
        data = path.read_bytes()
        assert len(data) == 300_000
        assert len(set(data)) == 1
        seen.add(data[0])
    process.kill()
    finish(process, -signal.SIGKILL)
    assert seen == set(b"ab")
    assert set(path.read_bytes()) in ({97}, {98})
    atomic.remove_abandoned(tmp_path)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("links", [True, False])
def test_publication_race_has_one_winner(tmp_path: Path, links: bool, no_links: str) -> None:
    """Of two processes that publish the same names at once, one wins each name, and its bytes stand there whole."""
    environment = {} if links else {"LD_PRELOAD": no_links}
    processes = {me: start(RACER, tmp_path, me, 120, **environment) for me in "AB"}
    while not all((tmp_path / f"ready-{me}").exists() for me in processes):
        assert all(process.poll() is None for process in processes.values())
        time.sleep(0.005)
    (tmp_path / "go").touch()
    won = {me: set(map(int, finish(process).split())) for me, process in processes.items()}
    assert not won["A"] & won["B"]
    assert won["A"] | won["B"] == set(range(120))
    for me, wins in won.items():
        assert all((tmp_path / f"file-{i}").read_bytes() == me.encode() * 5000 for i in wins)
    assert len(names(tmp_path)) == 120 + 3


def test_publishing_without_hard_links(tmp_path: Path, no_links: str) -> None:
    """Without hard links a file is published once, never replaced, and a forgotten lock is named."""
    code = """
import os, sys
from pathlib import Path
from kdcache.errors import OutputError
from kdcache.files.atomic import publish_file
folder = Path(sys.argv[1])
try:
    (folder / "a").touch()
    os.link(folder / "a", folder / "link")
    sys.exit("links work here")
except PermissionError:
    (folder / "a").unlink()
print(publish_file(folder / "a", b"one"), publish_file(folder / "a", b"two"))
(folder / ".lock-b").touch()
try:
    publish_file(folder / "b", b"b")
except OutputError as error:
    print(error)
"""
    output = finish(start(code, tmp_path, LD_PRELOAD=no_links))
    assert output.startswith("True False\n")
    assert f"{tmp_path / '.lock-b'}: another process is publishing this file" in output
    assert (tmp_path / "a").read_bytes() == b"one"
    assert names(tmp_path) == [".lock-b", "a"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_each_refusal_of_links_leads_to_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Whatever a file system answers that has no hard links, publication succeeds once."""
    monkeypatch.setattr(os, "link", raiser(code))
    assert [atomic.publish_file(tmp_path / "a", data) for data in (b"one", b"two")] == [True, False]
    assert (tmp_path / "a").read_bytes() == b"one"
    assert names(tmp_path) == ["a"]


def raiser(code: int) -> Any:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_lost_answer_to_a_link_that_worked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that was made, but reported as existing (as NFS does), counts as this process's publication."""
    link = os.link

    def link_and_deny(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "link", link_and_deny)
    assert atomic.publish_file(tmp_path / "a", b"one") is True
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("write", [atomic.replace_file, atomic.publish_file])
@pytest.mark.parametrize(
    ("call", "code", "remedy"),
    [
        ("fsync", errno.EIO, "Check the place"),
        ("write", errno.ENOSPC, "Make room"),
        ("write", errno.EDQUOT, "Make room"),
        ("write", errno.EFBIG, "ulimit -f"),
    ],
)
def test_a_failed_call_commits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, call: str, code: int, remedy: str
) -> None:
    """An error of the disk becomes an `OutputError` with the bytes and a remedy; names and old content stay."""
    (tmp_path / "b").write_bytes(b"old")
    monkeypatch.setattr(os, call, raiser(code))
    for name in ("a", "b"):
        with pytest.raises(OutputError, match=rf"{name}: cannot be written \(9 bytes .*{remedy}"):
            write(tmp_path / name, b"new bytes")
    assert names(tmp_path) == ["b"]
    assert (tmp_path / "b").read_bytes() == b"old"


@pytest.mark.parametrize("write", [atomic.replace_file, atomic.publish_file])
def test_a_folder_that_is_gone(tmp_path: Path, write: Any) -> None:
    """Writing into a folder that is missing, or is a file, is a clear error."""
    (tmp_path / "file").touch()
    for folder in ("nowhere", "file"):
        with pytest.raises(OutputError, match=f"{folder}/a: cannot be written"):
            write(tmp_path / folder / "a", b"data")


def test_only_abandoned_temporaries_are_removed(tmp_path: Path) -> None:
    """Files of living or foreign owners stay for a day; those of dead owners and those a day old go."""
    dead = start("")
    finish(dead)
    host = socket.gethostname()
    young = {
        f"a~elsewhere~{dead.pid}~ab": False,  # another host, whose processes cannot be asked after
        f"a~{host}~{os.getpid()}~ab": False,  # alive
        f"a~{host}~1~ab": False,  # alive, someone else's
        f"a~b~{host}~{os.getpid()}~ab": False,  # a tilde in the file's own name
        f"a~{host}~{dead.pid}~ab": True,
        f"a~b~c~{host}~{dead.pid}~ab": True,
        f"a~{host}~{10**25}~ab": True,  # no process can have this number
        f"a~{host}~²~ab": False,
        f"a~{host}~-1~ab": False,
        "checkpoint": False,
    }
    for name in young:
        (tmp_path / f".tmp-{name}").touch()
    old = tmp_path / ".tmp-a~elsewhere~1~old"
    old.touch()
    os.utime(old, (0, time.time() - atomic.STALE_SECONDS - 60))
    (tmp_path / "a~elsewhere").touch()
    assert atomic.remove_abandoned(tmp_path) == 1 + sum(young.values())
    kept = [f".tmp-{name}" for name, removed in young.items() if not removed]
    assert names(tmp_path) == sorted([*kept, "a~elsewhere"])


def test_own_temporary_names_differ_and_say_whose_they_are(tmp_path: Path) -> None:
    """Two temporary names for one file differ and carry host and process."""
    some, other = (atomic.temporary_name(tmp_path / "a") for _ in range(2))
    assert some != other
    assert f"~{socket.gethostname()}~{os.getpid()}~" in some.name
    assert some.parent == tmp_path
