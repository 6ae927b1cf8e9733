"""The house's floor plan: imports point one way, and the two sides of the cache do not know each other."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Collection
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kdcache"

# The rooms from the ground up, as the documentation shows them. Each imports only from those before it.
PLAN = (ROOT / "docs" / "why" / "rooms.md").read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
ORDER = [line.split()[0] for line in PLAN.splitlines()]
BEFORE_THE_CACHE, BEHIND_THE_CACHE = {"teacher", "dump"}, {"student"}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name; a package stands for its __init__."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imported(module: str) -> frozenset[str]:
    """All that a module imports anywhere in its text, lazily or for type checking only, by dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names.update(name if name in modules() else node.module for name in full)
    return frozenset(names)


def inside(module: str) -> list[str]:
    """What a module imports from the package, the version in the package's own __init__ left out."""
    return sorted(name for name in imported(module) if name.startswith("kdcache."))


def room(module: str) -> str:
    """The module or package right below kdcache that `module` belongs to."""
    return module.split(".")[1]


def test_every_module_has_its_place() -> None:
    """Each module and package right below kdcache stands once in docs/why/rooms.md, and nothing else does."""
    assert sorted(ORDER) == sorted({room(name) for name in modules() if "." in name})


def test_no_two_modules_share_a_name() -> None:
    """A module's last name stands for one file; only a file of kdcache/cli may be called like what its command runs."""
    files = [name for name, path in modules().items() if path.name != "__init__.py" and room(name) != "cli"]
    names = Counter(name.rsplit(".", 1)[-1] for name in files)
    assert {name for name, count in names.items() if count > 1} == set()


def test_no_file_is_too_long_for_one_sitting() -> None:
    """No Python file of kdcache or of its tests has more than 500 lines."""
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert [path for path in files if path.read_text(encoding="utf-8").count("\n") > 500] == []


@pytest.mark.parametrize("module", sorted(name for name in modules() if "." in name))
def test_imports_point_to_earlier_floors(module: str) -> None:
    """A module imports only from its own package and from what stands before it in the order."""
    own = ORDER.index(room(module))
    wrong = [name for name in inside(module) if room(name) != room(module) and ORDER.index(room(name)) >= own]
    assert not wrong, f"{module} imports {wrong}, which stand above it"


def reachable(start: str, without: Collection[str] = ()) -> set[str]:
    """All modules that importing `start` can lead to, lazy imports and packages' __init__ included, less `without`."""
    found: set[str] = set()
    open_ends = [start]
    while open_ends:
        name = open_ends.pop()
        if name not in found and name not in without:
            found.add(name)
            parents = [name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)]
            open_ends.extend([*inside(name), *(parent for parent in parents if parent != "kdcache")])
    return found


@pytest.mark.parametrize("package", sorted({room(name) for name in modules() if name.count(".") > 1} - {"cli"}))
def test_no_circle_inside_a_package(package: str) -> None:
    """No module of a package leads back to itself, but for each __init__, which only hands names on."""
    hands_on = {name for name, path in modules().items() if path.name == "__init__.py"}
    for module in modules().keys() - hands_on:
        if module.startswith(f"kdcache.{package}."):
            assert not any(module in reachable(name, hands_on) for name in inside(module)), module


def test_the_sides_of_the_cache_do_not_know_each_other() -> None:
    """Neither teacher and dump nor student and generation reach the other side, over any detour."""
    for one, other in ((BEFORE_THE_CACHE, BEHIND_THE_CACHE), (BEHIND_THE_CACHE, BEFORE_THE_CACHE)):
        for module in modules():
            if "." in module and room(module) in one:
                met = {name for name in reachable(module) if room(name) in other}
                assert not met, f"{module} leads to {met}"


def test_only_the_cache_knows_hdf5() -> None:
    """h5py is imported in kdcache/cache/ and nowhere else."""
    users = {name for name in modules() if any(one.split(".")[0] == "h5py" for one in imported(name))}
    assert users
    assert {room(name) for name in users} == {"cache"}


LOADED = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
HEAVY = {"torch", "transformers"}


def loaded_by(code: str) -> set[str]:
    """The top-level packages that are loaded in a new process after `code`."""
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{LOADED}"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_reading_a_cache_loads_no_torch() -> None:
    """The public names of `kdcache.cache` and all of the cache load neither torch nor transformers."""
    loaded = loaded_by("from kdcache.cache import CacheWriter, open_cache, verify_shard; import kdcache.cache.derived")
    assert not loaded & HEAVY
    assert "h5py" in loaded


HELP = """
import click.testing
from kdcache.cli import main
for command in [], ["student-train"], ["dump-logits"]:
    result = click.testing.CliRunner().invoke(main, [*command, "--help"])
    assert result.exit_code == 0 and "Usage" in result.output, result.output
"""


def test_help_loads_no_torch() -> None:
    """`kdcache --help` and a command's help load neither torch nor transformers."""
    loaded = loaded_by(HELP)
    assert not loaded & HEAVY
    assert {"click", "kdcache"} <= loaded
