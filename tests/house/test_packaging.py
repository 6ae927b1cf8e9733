"""The built wheel: complete without the source tree, and no top-level module but kdcache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

IMPORT_ALL = """
import pkgutil, sys
import kdcache, kdcache.data
from kdcache.experiments.demo import corpus_folder
for module in pkgutil.walk_packages(kdcache.__path__, "kdcache."):
    __import__(module.name)
    print(module.name)
print(kdcache.__file__)
print(corpus_folder())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a freshly built wheel was installed, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("kdcache", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True)
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"kdcache"}
    return folder / "site"


def run_installed(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder of its own, with the installed package before everything else."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=site.parent, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_every_module(installed: Path) -> None:
    """Every module of the checkout is in the wheel and can be imported from it, with corpus and style sheets."""
    done = run_installed(installed, "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    *modules, file, corpus = done.stdout.splitlines()
    assert Path(file) == installed / "kdcache" / "__init__.py"
    assert Path(corpus) == installed / "kdcache" / "data" / "demo"
    here = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "kdcache").rglob("*.py")
    }
    assert here - {"kdcache"} <= set(modules)
    beside = [path for kind in ("css", "html", "js", "typed") for path in (ROOT / "kdcache").rglob(f"*.{kind}")]
    assert len(beside) >= 5
    assert [path.name for path in beside if not (installed / path.relative_to(ROOT)).is_file()] == []
    assert {path.name for path in Path(corpus).iterdir()} == {path.name for path in (ROOT / "data" / "demo").iterdir()}


PIPELINE = """
import sys
from kdcache.cli import main
text = ["--source", sys.argv[1] + ".src", "--target", sys.argv[1] + ".tgt"]
for arguments in (
    ["teacher-train", *text, "--bert", "scratch:tiny", "--output", "t", "--max-steps", "2"],
    ["dump-logits", "--teacher", "t", *text, "--output", "c"],
    ["student-train", "--cache", "c", "--output", "s", "--max-steps", "2"],
    ["inspect", "c", "--html", "c.html"],
):
    main(arguments, standalone_mode=False)
"""


def test_the_installed_pipeline_runs(installed: Path) -> None:
    """A teacher, its cache and a student are made by the installed package alone, which is a program too."""
    text = installed / "kdcache" / "data" / "demo" / "valid"
    for arguments in (["-c", PIPELINE, str(text)], ["-m", "kdcache", "verify", "c"]):
        done = run_installed(installed, *arguments)
        assert done.returncode == 0, done.stderr
    assert all((installed.parent / name).exists() for name in ("t", "s/model.safetensors", "c.html"))
