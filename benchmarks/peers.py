"""Training steps of `kdcache student-train` beside other toolkits: targets per second on the same model and text."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from benchmarks import peers_arms
from benchmarks.peers_arms import OWN_PYTHON, PEER_ARMS, Times, ToolError, Work
from benchmarks.peers_setup import PEERS, environment, prepare
from benchmarks.report import publish, spread
from kdcache.cache.reader import CacheReader
from kdcache.student.cached_labels import CacheSections
from kdcache.student.student_config import SIZES
from kdcache.training.batches import epoch_order

PRECISIONS = {"float32": "", "bfloat16": "_bf16"}
ALPHAS = {"kdcache": 1.0, "kdcache, soft labels too": 0.5}
_CALIBRATION_STEPS = 24


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one run, after its first steps: non-padding targets per second, and per step."""

    rate: float
    per_step: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument(
        "--folder", required=True, help="where environments and text go; kept, so that a repetition starts at once"
    )
    parser.add_argument(
        "--peers", nargs="+", choices=tuple(PEERS), default=tuple(PEERS), help="toolkits beside kdcache"
    )
    parser.add_argument("--size", choices=tuple(SIZES), default="tiny", help="shape of the model")
    parser.add_argument("--pairs", type=int, default=29_000, help="pairs of the training text")
    parser.add_argument(
        "--max-tokens", type=int, default=4_096, help="of kdcache; the others' batches are fitted to it"
    )
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of one run")
    parser.add_argument("--skip", type=int, default=10, help="first steps that are not counted")
    parser.add_argument("--cores", type=int, default=1, help="cores, and threads of torch")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each arm")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    if not 0 < options.skip < options.steps:
        raise SystemExit("--skip must be above 0 and below --steps")
    folder = Path(options.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    work = Work(prepare(folder, options.pairs), options.size, options.cores)
    pythons = {name: environment(folder, name) for name in options.peers}
    own = own_targets(work, options.max_tokens, options.steps)
    arms: dict[tuple[str, str], Callable[[], Measured]] = {}
    failed: dict[tuple[str, str], str] = {}
    for precision in PRECISIONS:
        for name, alpha in ALPHAS.items():
            arms[name, precision] = partial(_own, work, folder, precision, options, alpha, own)
        for name, python in pythons.items():
            try:
                batch = fitted(name, python, work, folder, statistics.mean(own))
                arms[name, precision] = partial(_peer, name, python, work, folder, precision, options, batch)
            except ToolError as error:
                failed[name, precision] = str(error)
    found = _alternate(arms, options.rounds, failed)
    _publish(found, failed)


def own_targets(work: Work, max_tokens: int, steps: int) -> list[int]:
    """Targets of kdcache's first steps: the order of an epoch is a function of the cache and the seed."""
    sections = CacheSections(CacheReader(work.material.cache), soft=False)
    targets: list[int] = []
    epoch = 0
    while len(targets) < steps:
        order = islice(epoch_order(sections, max_tokens, 1, epoch), steps - len(targets))
        targets.extend(int(one.window.pairs.target_lengths[one.rows].sum()) for one in order)
        epoch += 1
    return targets


def fitted(name: str, python: Path, work: Work, folder: Path, per_step: float) -> int:
    """The batch size with which a toolkit's steps have about `per_step` targets; found by short runs, it is kept."""
    if name == "trainer":
        # Its batches are so many pairs, whatever their length.
        reader = CacheReader(work.material.cache)
        return round(per_step * reader.plan.n_pairs / reader.n_targets)
    notes = folder / "batches.json"
    known = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}
    key = f"{PEERS[name].package} {work.material.cache.parent.name} {per_step:.0f}"
    if key not in known:
        batch = round(1.3 * per_step)
        for _ in range(2):
            times = _run_peer(name, python, work, folder, "float32", batch, _CALIBRATION_STEPS)
            batch = max(1, round(batch * per_step / statistics.mean(times.targets)))
        known[key] = batch
        notes.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return int(known[key])


def _run_peer(name: str, python: Path, work: Work, folder: Path, precision: str, batch: int, steps: int) -> Times:
    home = _fresh(folder / f"run-{name}")
    arguments = PEER_ARMS[name](work, home, precision, batch, steps)
    return peers_arms.train(name, python, arguments, home, work.cores)


def _peer(
    name: str, python: Path, work: Work, folder: Path, precision: str, options: argparse.Namespace, batch: int
) -> Measured:
    times = _run_peer(name, python, work, folder, precision, batch, options.steps)
    return steady(times, times.targets, options.skip)


def _own(
    work: Work, folder: Path, precision: str, options: argparse.Namespace, alpha: float, targets: list[int]
) -> Measured:
    home = _fresh(folder / "run-kdcache")
    arguments = peers_arms.kdcache(work, home, precision, options.max_tokens, options.steps, alpha)
    return steady(peers_arms.train("kdcache", OWN_PYTHON, arguments, home, work.cores), targets, options.skip)


def _fresh(home: Path) -> Path:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    return home


def steady(times: Times, targets: list[int], skip: int) -> Measured:
    """Targets per second from the end of step `skip` to the end of the last, and targets per step in that time."""
    if len(times.ends) != len(targets):
        raise ToolError(f"took {len(times.ends)} steps where {len(targets)} were expected")
    counted = targets[skip:]
    return Measured(sum(counted) / (times.ends[-1] - times.ends[skip - 1]), sum(counted) / len(counted))


def _alternate(
    arms: dict[tuple[str, str], Callable[[], Measured]], rounds: int, failed: dict[tuple[str, str], str]
) -> dict[tuple[str, str], list[Measured]]:
    """Every arm once a round; one that fails is left out from then on. Each run is a new process."""
    found: dict[tuple[str, str], list[Measured]] = {key: [] for key in arms}
    for _ in range(rounds):
        for key, arm in arms.items():
            if key in failed:
                continue
            try:
                found[key].append(arm())
            except ToolError as error:
                failed[key] = str(error)
    return {key: values for key, values in found.items() if key not in failed}


def _publish(found: dict[tuple[str, str], list[Measured]], failed: dict[tuple[str, str], str]) -> None:
    rows = [("precision, toolkit", "targets/s, median [range]", "targets/step", "kdcache over it")]
    figures: dict[str, float] = {}
    for precision, suffix in PRECISIONS.items():
        base = [one.rate for one in found.get(("kdcache", precision), [])]
        for (name, at), values in found.items():
            if at != precision:
                continue
            rates = [one.rate for one in values]
            over = statistics.median(a / b for a, b in zip(base, rates, strict=True)) if base else float("nan")
            per_step = statistics.mean(one.per_step for one in values)
            rows.append((f"{precision}, {name}", spread(rates, 0), f"{per_step:,.0f}", f"{over:.2f}"))
            label = {"kdcache, soft labels too": "soft"}.get(name, name)
            figures[f"targets_per_s_{label}{suffix}"] = statistics.median(rates)
            figures[f"targets_per_step_{label}{suffix}"] = per_step
            if name != "kdcache":
                figures[f"over_{label}{suffix}"] = over
    for (name, precision), reason in failed.items():
        print(f"{precision}, {name}: {reason}")
    publish(rows, figures)
