"""Opening a checkpoint as a masked language model, with all of its encoder's weights, or saying why that fails."""

import os
import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from kdcache.errors import ModelError, first_line
from kdcache.files.atomic import file_sha256, sha256
from kdcache.files.locations import utf8_folder
from kdcache.files.run_records import RUN_FILE, log
from kdcache.files.strict_json import canonical_json, read_json

_NAMED = 3


def check_place(place: str, option: str) -> None:
    """Refuse what is neither a folder with a masked language model nor a name for the hub; say when the hub is asked.

    Raises:
        ModelError: the message opens with `option` and `place`.
    """
    folder = Path(place)
    if folder.is_file():
        raise ModelError(_message(place, option, "it is a file. Give the folder that holds the model's files,"))
    if folder.is_dir():
        config = folder / "config.json"
        kind = read_json(config).get("model_type") if config.is_file() else None
        if kind is not None and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            student = " It looks like a student." if (folder / "generation_config.json").is_file() else ""
            why = f"it holds a model of type {kind}, and a teacher is a masked language model.{student}"
            raise ModelError(_message(place, option, f"{why} Give another folder,"))
        return
    if place.startswith(("/", "./", "../", "~")) or place.count("/") > 1 or place.endswith("/"):
        raise ModelError(_message(place, option, "there is no such folder. Give one with a downloaded checkpoint,"))
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("0", "", "false", "no", "off"):
        log.info("%s is no folder here: asking the Hugging Face hub for it, which may take a minute.", place)


def checkpoint_fingerprint(place: str) -> dict[str, str]:
    """The fingerprint `bert` of the files that make a model in a folder; nothing where it is a name for the hub."""
    folder = Path(place)
    if not folder.is_dir():
        return {}
    kept = {".json", ".txt", ".model", ".safetensors"}
    if not any(folder.glob("*.safetensors")):
        kept.add(".bin")
    files = [path for path in folder.iterdir() if path.suffix in kept and path.name != RUN_FILE and path.is_file()]
    try:
        found = {path.name: file_sha256(path) for path in files}
    except OSError as error:
        why = f"{error.filename}: {error.strerror}. Give another folder,"
        raise ModelError(_message(place, "--bert", why)) from error
    return {"bert": sha256(canonical_json(found))}


def open_masked_lm(place: str, option: str) -> tuple[Any, list[str]]:
    """Open a checkpoint as a masked language model in float32; return it and the weights of the head that it lacked.

    A prefix that all its names share, as wrappers such as `module.` leave it, is taken off.

    Raises:
        ModelError: it cannot be found or opened, or lacks weights of the encoder; the message names the way out.
    """
    model, missing, unexpected = _load(place, option)
    base = f"{model.base_model_prefix}."
    encoder = {name for name, _ in model.named_parameters() if name.startswith(base)}
    prefix = shared_prefix(unexpected)
    if encoder <= missing and prefix:
        log.warning("%s: all names of weights begin with %s, which is taken off.", place, prefix)
        model, missing, unexpected = _load(place, option, {f"^{re.escape(prefix)}": ""})
    if absent := sorted(encoder & missing):
        names = ", ".join(absent[:_NAMED])
        raise ModelError(
            f"{option} {place}: lacks {len(absent):,} of the {len(encoder):,} weights of its encoder ({names}, …), "
            "which would be random. Is it the checkpoint of another model, or only an adapter?"
        )
    if unused := sorted(name for name in unexpected if name.startswith(base) and "pooler" not in name):
        names = ", ".join(unused[:_NAMED])
        log.warning("%s: the model has no place for %s of its weights (%s, …).", place, f"{len(unused):,}", names)
    return model, sorted(missing)


def _load(place: str, option: str, renamed: dict[str, str] | None = None) -> tuple[Any, set[str], set[str]]:
    try:
        with utf8_folder(Path(place)) as folder:
            model, report = AutoModelForMaskedLM.from_pretrained(
                str(folder), output_loading_info=True, dtype=torch.float32, key_mapping=renamed
            )
    except Exception as error:  # the hub client and the library raise many kinds
        raise ModelError(open_failure(place, option, error)) from error
    # A tied weight has two names in a checkpoint and one among the parameters.
    own = {name for name, _ in model.named_parameters()}
    return model, own & set(report["missing_keys"]), set(report["unexpected_keys"])


def shared_prefix(names: set[str]) -> str:
    """The longest `word.word.` that all names begin with; empty where there is none."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{words[0]}." for words in takewhile(lambda words: len(set(words)) == 1, levels))


def open_failure(place: str, option: str, error: Exception) -> str:
    """Why a checkpoint could not be opened, and what can be done."""
    if Path(place).is_dir():
        return _message(place, option, f"{first_line(error)} Give another folder,")
    return _message(
        place, option, f"{first_line(error)} Check the name or the network, give a folder with a downloaded checkpoint,"
    )


def _message(place: str, option: str, why: str) -> str:
    other = "train a small one from nothing with --bert scratch:tiny"
    if option == "--teacher":
        other = "make one with kdcache teacher-train"
    return f"{option} {place}: cannot be opened: {why} or {other}."
