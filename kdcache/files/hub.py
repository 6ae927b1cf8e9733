"""Folders that lie on the Hugging Face hub."""

from pathlib import Path

from kdcache.errors import ModelError, first_line

_PREFIX = "hf://"


def on_hub(place: str) -> bool:
    """Whether `place` names a repository of the hub."""
    return place.startswith(_PREFIX)


def local_folder(place: str) -> Path:
    """The folder `place`, or a local copy of the repository that `hf://OWNER/NAME[@REVISION]` names on the hub.

    Raises:
        ModelError: there is no such repository, or neither the hub nor a copy is reached.
    """
    if not on_hub(place):
        return Path(place)
    from huggingface_hub import snapshot_download

    name, _, revision = place.removeprefix(_PREFIX).partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, ignore_patterns=["checkpoints/*"]))
    except Exception as error:  # the client raises many kinds
        remedy = "Check the name and the network; private ones need hf auth login."
        raise ModelError(
            f"{place}: cannot be fetched from the Hugging Face hub: {first_line(error)} {remedy}"
        ) from error
