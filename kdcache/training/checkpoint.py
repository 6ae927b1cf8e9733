"""Checkpoints: all that decides how training continues, as safetensors and JSON, committed by a rename.

::

    OUTPUT/checkpoints/step-00000100/model.safetensors       parameters
    OUTPUT/checkpoints/step-00000100/optimizer.safetensors   moments
    OUTPUT/checkpoints/step-00000100/state.json              position, SHA-256 of the two others and of itself

There is no state of random number generators: each step seeds all random streams, from seed and step.
"""

import contextlib
import dataclasses
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from kdcache.console import tables
from kdcache.errors import CorruptError, TrainingError
from kdcache.files.atomic import replace_file, sha256, storage_errors, sync_folder
from kdcache.files.run_records import log
from kdcache.files.strict_json import canonical_json, from_json, read_json, readable_json

FOLDER = "checkpoints"
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_SEAL = "seal"
_TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True)
class Tally:
    """A named sum."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Position:
    """How far training has come.

    Attributes:
        step: optimizer steps taken.
        epoch: the current one, from 0.
        consumed: batches of that epoch that went into optimizer steps.
        validated: the step of the last validation; 0 before the first.
        best_step, best_loss: of the best validation, or None.
        stale: validations since the best one.
        recent: the steps of the last validations, oldest first, whose checkpoints will be averaged.
        unlogged: sums over the steps since the last line of the metrics, so that the curve continues unchanged.
    """

    step: int = 0
    epoch: int = 0
    consumed: int = 0
    validated: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    stale: int = 0
    recent: tuple[int, ...] = ()
    unlogged: tuple[Tally, ...] = ()


@dataclass(frozen=True, slots=True)
class _State:
    position: Position
    run: str
    model_sha256: str
    optimizer_sha256: str


def save(folder: Path, position: Position, run: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Commit a checkpoint under `folder`; keep the last two and those that they need, the best and the recent.

    `run` identifies data and configuration; `restore` refuses another one.

    Raises:
        OutputError: the disk refused; earlier checkpoints are untouched.
    """
    target = folder / _name(position.step)
    if target.exists():
        # The parameters of this step are saved already; its validation has changed the position.
        replace_file(target / _STATE, _sealed(replace(_read_state(target), position=position)))
        return
    temporary = folder / f"{_TEMPORARY}{target.name}"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for abandoned in folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(abandoned)
        temporary.mkdir()
    parameters = save_tensors({name: p.detach().cpu().contiguous() for name, p in model.named_parameters()})
    moments = save_tensors(_optimizer_tensors(optimizer))
    state = _State(position, run, sha256(parameters), sha256(moments))
    replace_file(temporary / _MODEL, parameters)
    replace_file(temporary / _OPTIMIZER, moments)
    replace_file(temporary / _STATE, _sealed(state))
    with storage_errors(target):
        temporary.rename(target)
        sync_folder(folder)
        _remove_old(folder)


def _remove_old(folder: Path) -> None:
    keep: set[int | None] = set()
    for path in saved(folder)[:2]:
        with contextlib.suppress(CorruptError):
            position = _read_state(path).position
            keep |= {*position.recent, position.best_step}
    names = {_name(step) for step in keep if step is not None}
    for path in saved(folder)[2:]:
        if path.name not in names:
            shutil.rmtree(path)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _sealed(state: _State) -> bytes:
    content = dataclasses.asdict(state)
    return readable_json({**content, _SEAL: sha256(canonical_json(content))})


def _read_state(path: Path) -> _State:
    value = read_json(path / _STATE)
    seal = value.pop(_SEAL, None) if isinstance(value, dict) else None
    state = from_json(_State, value, str(path / _STATE))
    if seal != sha256(canonical_json(dataclasses.asdict(state))):
        raise CorruptError(f"{path / _STATE}: its content is not what was committed.")
    return state


def saved(folder: Path) -> list[Path]:
    """Committed checkpoints, newest first."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)


def restore(folder: Path, run: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position | None:
    """Load the newest sound checkpoint into `model` and `optimizer`.

    Returns:
        Where it stood, or None if there is no checkpoint.

    Raises:
        TrainingError: it belongs to other data or another configuration, or all checkpoints are damaged.
    """
    paths = saved(folder)
    for path in paths:
        try:
            state, parameters, moments = _read(path)
        except CorruptError as error:
            log.warning("A damaged checkpoint is passed over: %s", error)
            continue
        if state.run != run:
            raise TrainingError(f"{path}: belongs to other data or settings. Choose another --output.")
        copy_parameters(model, parameters, path)
        _load_optimizer(optimizer, moments)
        return state.position
    if paths:
        raise TrainingError(f"{folder}: none of its {len(paths)} checkpoints is sound. Delete it to begin anew.")
    return None


def set_aside_after(folder: Path, position: Position) -> None:
    """Rename the checkpoints of later steps than `position`, which are damaged, so that these can be saved again."""
    with storage_errors(folder):
        for path in saved(folder):
            if path.name > _name(position.step):
                path.rename(folder / f"damaged-{path.name}-{secrets.token_hex(4)}")


def load_mean(folder: Path, steps: Sequence[int], model: nn.Module) -> None:
    """Load the mean of the parameters of some steps' checkpoints into `model`; of one step, exactly these.

    Raises:
        TrainingError: one is missing or damaged.
    """
    sums: dict[str, Tensor] = {}
    for step in steps:
        path = folder / _name(step)
        try:
            tensors = _read(path)[1]
        except CorruptError as error:
            raise TrainingError(
                f"A checkpoint that is to be exported cannot be used: {error} Delete {folder} to train anew."
            ) from error
        for name, tensor in tensors.items():
            sums[name] = sums[name] + tensor if name in sums else tensor.double()
    copy_parameters(model, {name: total / len(steps) for name, total in sums.items()}, folder)


def remove_all(output: Path) -> None:
    """Remove the checkpoints of a training that has finished, and say how much room that makes."""
    folder = output / FOLDER
    try:
        freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder)
    except OSError as error:
        log.warning(
            "%s: cannot be removed (%s). Delete it; it is not needed any more.", folder, error.strerror or error
        )
        return
    log.info("Its checkpoints are removed, which frees %s; --keep-checkpoints keeps them.", tables.size(freed))


def _read(path: Path) -> tuple[_State, dict[str, Tensor], dict[str, Tensor]]:
    state = _read_state(path)
    contents = []
    for name, digest in ((_MODEL, state.model_sha256), (_OPTIMIZER, state.optimizer_sha256)):
        try:
            data = (path / name).read_bytes()
        except OSError as error:
            raise CorruptError(f"{path / name}: cannot be read: {error.strerror}.") from error
        if sha256(data) != digest:
            raise CorruptError(f"{path / name}: its SHA-256 is not the committed one.")
        try:
            contents.append(load_tensors(data))
        except SafetensorError as error:
            raise CorruptError(f"{path / name}: holds no tensors: {error}.") from error
    return state, contents[0], contents[1]


@torch.no_grad()
def copy_parameters(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy `tensors` into the parameters of the same names.

    Raises:
        TrainingError: names or shapes differ.
    """
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if given != expected:
        names = sorted(name for name in given.keys() | expected.keys() if given.get(name) != expected.get(name))
        raise TrainingError(f"{path}: does not fit the model at {names[0]}.")
    for name, parameter in model.named_parameters():
        parameter.copy_(tensors[name])


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value.cpu().contiguous() for i, entry in state.items() for name, value in entry.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_model(model: Any, folder: Path) -> None:
    """Write a `PreTrainedModel` as an ordinary Hugging Face folder, and wait until it is on the disk.

    The weights get the permissions of the configuration; safetensors 0.8 writes them for their owner alone.

    Raises:
        OutputError: the disk refused.
    """
    model.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)
    # The checkpoints, which could replace it after a power cut, are removed next.
    with storage_errors(folder):
        for path in folder.iterdir():
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        sync_folder(folder)
