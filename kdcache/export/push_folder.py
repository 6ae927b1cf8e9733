"""A teacher, student or cache on the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path

from kdcache.cache.plan import PLAN_FILE
from kdcache.cache.reader import CacheReader
from kdcache.cache.schema import HELD_OUT_FILE, MANIFEST_FILE, SHARDS_FOLDER, TOKENIZER_FOLDER
from kdcache.errors import CorruptError, OutputError, UsageError, first_line
from kdcache.export.push_config import PushConfig
from kdcache.files.run_records import METRICS_FILE, RUN_FILE
from kdcache.files.strict_json import read_json, readable_json

CARD_FILE = "README.md"
# Of a run's record, what says nothing about the machine on which it ran.
_SHARED = ("command", "inputs", "versions", "started", "finished", "result")
# Whatever else lies in the folder may tell of the machine or of other texts: TensorBoard's files name the host.
_MODEL = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "rnn.py", METRICS_FILE),
)
_CACHE = (
    *(PLAN_FILE, MANIFEST_FILE, HELD_OUT_FILE, f"{TOKENIZER_FOLDER}/*.json"),
    *(f"{SHARDS_FOLDER}/[0-9]*.h5", f"{SHARDS_FOLDER}/[0-9]*.json"),
)
_SHARDS_A_COMMIT = 50


@dataclass(frozen=True, slots=True)
class Upload:
    """What is uploaded.

    Attributes:
        kind: "model", or "dataset" for a cache.
        files: by name in the repository, what lies on this machine, or the content itself.
    """

    kind: str
    files: dict[str, Path | bytes]

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in self.files.values())

    @property
    def warning(self) -> str:
        """What it tells of the text that it was made from."""
        if self.kind == "dataset":
            return "A cache holds its whole text. Upload it only where the text's licence and privacy allow that."
        return "A model can give back sentences that it was trained on, and its vocabulary lists words of the text."


def gather(config: PushConfig) -> Upload:
    """Find what is uploaded: what makes the model or cache, its card, and of its record what names no path.

    Raises:
        UsageError: the folder holds neither a model nor a cache.
        CorruptError: the cache is incomplete or damaged.
    """
    config.check()
    folder = Path(config.source)
    cache = CacheReader(folder) if (folder / PLAN_FILE).is_file() else None
    if not cache and not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: neither a teacher, a student nor a cache.")
    found = (path for pattern in (_CACHE if cache else _MODEL) for path in sorted(folder.glob(pattern)))
    files: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in found if path.is_file()}
    if (folder / RUN_FILE).is_file():
        record = read_json(folder / RUN_FILE)
        if not isinstance(record, dict) or not isinstance(record.get("config", {}), dict):
            raise CorruptError(f"{folder / RUN_FILE}: not the record of a run. Move it away.")
        kept = {name: record[name] for name in _SHARED if name in record}
        # Without its fold, a teacher would label the pairs that it learned from.
        fold = record.get("config", {}).get("fold")
        files[RUN_FILE] = readable_json({**kept, "config": {"fold": fold} if fold else {}})
    if (folder / CARD_FILE).is_file():
        files[CARD_FILE] = folder / CARD_FILE
    elif cache is not None:
        files[CARD_FILE] = _cache_card(cache, config.repo).encode()
    return Upload("dataset" if cache else "model", files)


def push(config: PushConfig, upload: Upload) -> str:
    """Make the repository if there is none, commit the files, and return its address.

    Raises:
        OutputError: the hub refuses or is not reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api, names = HfApi(), sorted(upload.files)
    try:
        url = api.create_repo(config.repo, repo_type=upload.kind, private=not config.public, exist_ok=True)
        # A cache is complete with its manifest, which comes last.
        names.sort(key=lambda name: name == MANIFEST_FILE)
        for start in range(0, len(names), _SHARDS_A_COMMIT):
            some = names[start : start + _SHARDS_A_COMMIT]
            parts = [CommitOperationAdd(name, _content(upload.files[name])) for name in some]
            message = f"Upload by kdcache, from file {start + 1:,} of {len(names):,}"
            api.create_commit(config.repo, parts, commit_message=message, repo_type=upload.kind)
    except Exception as error:  # the client raises many kinds
        raise OutputError(
            f"{config.repo}: not uploaded: {first_line(error)} Log in with hf auth login, and run the same command "
            "again: what is there already is not sent twice."
        ) from error
    return str(url)


def _content(file: Path | bytes) -> str | bytes:
    return file if isinstance(file, bytes) else str(file)


def _cache_card(reader: CacheReader, repo: str) -> str:
    plan = reader.plan
    words = f"{plan.draws} words drawn" if plan.draws else f"The {plan.topk} most probable words"
    figures = "\n".join(f"- {line}" for line in reader.teacher_figures().sentences())
    return f"""---
tags:
- kdcache
- knowledge-distillation
---

# Soft labels of {plan.n_pairs:,} sentence pairs

{words} of a teacher's distribution at each of {reader.n_targets:,} target positions, stored by kdcache.

**Both texts of the corpus are inside, as ids with their tokenizer**: their
licence and the privacy of those in them decide who may use this cache.

{figures}
- Content: `{reader.manifest.root}`; `kdcache inspect` prints the same for an unchanged cache.
- Corpus: `{plan.corpus}`; teacher: `{plan.teacher}`.

```sh
kdcache student-train --cache hf://datasets/{repo} --output student
```
"""
