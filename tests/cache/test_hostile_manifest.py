"""What an enemy writes into plan and manifest names no file of this machine and reaches no terminal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from caches import make_plan, manifest_bytes
from conftest import run_here
from families import World
from remote import Server

from kdcache.cache import shard_records
from kdcache.cache.copies import Copies
from kdcache.cache.derived.derive_config import TranscodeConfig
from kdcache.cache.derived.transcoding import transcode
from kdcache.cache.plan import Plan, SourceCache, check_plan, read_plan
from kdcache.cache.reader import CacheReader, open_cache
from kdcache.errors import CorruptError
from kdcache.files.locations import StoreConfig
from kdcache.files.strict_json import readable_json

ESCAPE = "\x1b[2J"
# What may stand where a SHA-256 belongs; VICTIM is the path of a file.
DIGESTS = {
    "absolute": "VICTIM",
    "above": "../victim",
    "nul": "a" * 63 + "\0",
    "capitals": "A" * 64,
    "short": "a" * 63,
    "line feed": "a" * 64 + "\n",
    "other digits": "\u0663" * 64,
    "escape": ESCAPE,
    "empty": "",
}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that is nobody's business, beside the folder of copies."""
    path = tmp_path / "victim"
    path.write_text("my thesis")
    return path


def claim(cache: Path, digest: str) -> shard_records.ShardRecord:
    """Let record and manifest commit shard 0 under `digest`, with a root hash that fits."""
    plan = read_plan(cache)
    records = list(shard_records.read_manifest(cache, plan).shards)
    records[0] = dataclasses.replace(records[0], sha256=digest)
    (cache / "manifest.json").write_bytes(manifest_bytes(plan, records))
    (cache / "shards" / "00000.json").write_bytes(readable_json(dataclasses.asdict(records[0])))
    return records[0]


@pytest.mark.complete_cache
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", DIGESTS)
def test_a_digest_that_is_a_path_is_refused(kind: str, victim: Path, cache: Path, server: Server) -> None:
    """A manifest whose digest is a path, or is no digest, is refused from a URL and a folder; the file there stays."""
    record = claim(cache, DIGESTS[kind].replace("VICTIM", str(victim)))
    store = StoreConfig(str(cache.parent / "store"))
    for location in (server.url, str(cache)):
        with pytest.raises(CorruptError, match="a SHA-256 is 64 hexadecimal digits") as caught:
            open_cache(location, store).shard(0)
        assert ESCAPE not in str(caught.value)
    assert not [name for name in server.requests if name.endswith(".h5")]
    # And the folder of copies does not rely on the manifest's check.
    copies = Copies(store)
    with pytest.raises(CorruptError, match="no copy can have that name"):
        copies.get(record)
    with pytest.raises(CorruptError, match="no copy can have that name"):
        copies.put(record, b"x")
    assert victim.read_text() == "my thesis"
    assert not [path for path in store.path.iterdir() if path.name != ".lock"]


@pytest.mark.complete_cache
def test_inspect_deletes_nothing(victim: Path, cache: Path, server: Server) -> None:
    """`kdcache inspect --pair` of such a cache at a URL ends with exit code 1, and the named file is still there."""
    claim(cache, str(victim))
    done = run_here("inspect", server.url, "--pair", "0", "--cache-folder", cache.parent / "store")
    assert done.returncode == 1
    assert "a SHA-256 is 64 hexadecimal digits" in done.stderr
    assert victim.exists()


def with_source(**changes: object) -> Plan:
    """The plan of a cache made from another one, whose own plan has `changes`; `root` is that of the source."""
    root = str(changes.pop("root", "a" * 64))
    plan = make_plan()
    before = dataclasses.replace(plan, **changes)  # type: ignore[arg-type]
    middle = dataclasses.replace(plan, shard_pairs=9, sources=(SourceCache(root, before),))
    return dataclasses.replace(plan, shard_pairs=10, sources=(SourceCache("b" * 64, middle),))


HASHES = [{name: "no hash"} for name in ("corpus", "tokenizer", "teacher")]
CODES = dataclasses.replace(make_plan().encoding, filters=ESCAPE)
NESTED: list[tuple[dict[str, object], str]] = [
    *((change, "a SHA-256 is 64 hexadecimal digits") for change in (*HASHES, {"root": f"{ESCAPE}hi\n  x"})),
    ({"precision": ESCAPE}, "not one of float32, bfloat16"),
    ({"encoding": CODES}, "unknown encoding"),
    ({"format": ESCAPE}, "made from a cache of format"),
    ({"version": 4}, "made from a cache of format 'kdcache', version 4"),
    ({"passes": 0}, "a count is below 1"),
    ({"draws": 3}, "3 draws in 4 columns"),
]


@pytest.mark.parametrize(("changes", "message"), NESTED)
def test_plans_of_sources_are_held_to_the_rules(changes: dict[str, object], message: str) -> None:
    """What is wrong in a plan two generations back is refused, and quoted without its control characters."""
    check_plan(with_source(), "plan.json")
    with pytest.raises(CorruptError, match=message) as caught:
        check_plan(with_source(**changes), "plan.json")
    assert ESCAPE not in str(caught.value)


@pytest.mark.parametrize("field", ["corpus", "tokenizer", "teacher", "precision"])
def test_the_plans_own_texts(field: str) -> None:
    """Each of the plan's own hashes is one, and its precision is one that there is."""
    with pytest.raises(CorruptError, match=field):
        check_plan(dataclasses.replace(make_plan(), **{field: "0" * 63}), "plan.json")


def test_inspect_shows_no_stranger_s_escapes(tmp_path: Path) -> None:
    """A cache whose source has a root full of control characters is refused by `inspect`, which prints none of them."""
    World().write(tmp_path / "a")
    assert transcode(TranscodeConfig(str(tmp_path / "a"), topk=3), tmp_path / "b") is not None
    assert run_here("inspect", tmp_path / "b").returncode == 0
    reader = CacheReader(tmp_path / "b")
    sources = (dataclasses.replace(reader.plan.sources[0], root=f"{ESCAPE}hi\n  x"),)
    plan = dataclasses.replace(reader.plan, sources=sources)
    records = [dataclasses.replace(record, plan=plan.fingerprint) for record in reader.records]
    (tmp_path / "b" / "plan.json").write_bytes(readable_json(dataclasses.asdict(plan)))
    (tmp_path / "b" / "manifest.json").write_bytes(manifest_bytes(plan, records))
    done = run_here("inspect", tmp_path / "b")
    assert done.returncode == 1
    assert "a SHA-256 is 64 hexadecimal digits" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    # Nor a version that is a text.
    (tmp_path / "b" / "plan.json").write_text('{"format": "kdcache", "version": "\\u001b[2J"}')
    done = run_here("inspect", tmp_path / "b")
    assert (done.returncode, "\x1b" in done.stderr) == (1, False)
