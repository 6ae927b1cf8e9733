"""One experiment out of two sweeps with the same settings and other seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from kdcache.experiments.sweep_results import Spread

Json = dict[str, Any]
_NORMAL = statistics.NormalDist()


def join(first: Json, second: Json) -> Json:
    """The stored experiment `first` with the seeds of `second`: means and deviations over all of them.

    The outputs of the first sweep's students are gone, so that no test can be made over all seeds at once. The p-values
    of the sweeps are combined (Stouffer et al. 1949): z = Σ √nᵢ zᵢ / √Σ nᵢ over sweeps of nᵢ seeds, where zᵢ has the
    sign of the difference and p = 1 − Φ(|z|), one tail as before.

    Raises SystemExit where settings differ or a seed is in both.
    """
    old, new = first["results"], second["results"]
    if _settings(old) != _settings(new) or old["baseline"] != new["baseline"]:
        raise SystemExit("The sweeps have other settings, and only what differs in nothing but seeds can be joined.")
    runs = sorted([*old["runs"], *new["runs"]], key=lambda run: (run["seed"], run["row"] != old["baseline"]))
    if len({(run["row"], run["seed"]) for run in runs}) < len(runs):
        raise SystemExit("A seed is in both sweeps.")
    names = [row["row"] for row in old["rows"]]
    values = {name: {run["seed"]: _values(run) for run in runs if run["row"] == name} for name in names}
    others = {(one["row"], one["column"]): one for one in new["differences"]}
    results = {
        **old,
        "rows": [{"row": name, "values": _columns(values[name].values())} for name in names],
        "differences": [
            {
                **one,
                "spread": _difference(one, values, old["baseline"]),
                "p_value": _joined_p(one, others[one["row"], one["column"]]),
            }
            for one in old["differences"]
        ],
        "runs": runs,
        "joined": [*old.get("joined", [_seeds(old)]), _seeds(new)],
    }
    caches = {**first["caches"], **{f"{name}, again": one for name, one in second["caches"].items()}}
    return {"results": results, "records": {**first["records"], **second["records"]}, "caches": caches}


def _seeds(results: Json) -> list[int]:
    return sorted({run["seed"] for run in results["runs"]})


def _settings(results: Json) -> dict[str, Json]:
    return {run["row"]: {k: v for k, v in run["settings"].items() if k != "seed"} for run in results["runs"]}


def _values(run: Json) -> dict[str, float]:
    scores = {f"{text} {one['name']}": one["value"] for text, found in run["scores"].items() for one in found}
    return {"valid_nll": run["valid_nll"], **scores}


def _columns(rows: Iterable[dict[str, float]]) -> dict[str, Json]:
    found = list(rows)
    return {column: _spread([row[column] for row in found]) for column in found[0]}


def _difference(one: Json, values: dict[str, dict[int, dict[str, float]]], baseline: str) -> Json:
    column, base = one["column"], values[baseline]
    return _spread([row[column] - base[seed][column] for seed, row in values[one["row"]].items() if seed in base])


def _spread(values: Sequence[float]) -> Json:
    return asdict(Spread.of(values))


def _joined_p(one: Json, other: Json) -> float | None:
    if one["p_value"] is None or other["p_value"] is None:
        return None
    weights = [part["spread"]["n"] for part in (one, other)]
    z = sum(math.sqrt(n) * _z(part) for n, part in zip(weights, (one, other), strict=True)) / math.sqrt(sum(weights))
    return 1 - _NORMAL.cdf(abs(z))


def _z(one: Json) -> float:
    return math.copysign(_NORMAL.inv_cdf(1 - one["p_value"]), one["spread"]["mean"])
