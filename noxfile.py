"""The quick tests on the built wheel: on every Python that is there, and with the lowest versions that are allowed."""

import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).parent
# Its builds of long ago are gigabytes, so it is not taken at its lowest version.
TORCH = "torch==2.13.0"
EXTRAS = "test,trackers,remote"

nox.options.default_venv_backend = "uv"


@nox.session(python=["3.11", "3.12", "3.13"])
def wheel(session: nox.Session) -> None:
    """Everything at its newest version."""
    run_tests(session, "highest")


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """What setup.cfg names at the lowest version that it allows."""
    run_tests(session, "lowest-direct")


def run_tests(session: nox.Session, resolution: str) -> None:
    """Install a wheel of the checkout, and run the tests where no checkout lies beside them."""
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    session.install(f"--resolution={resolution}", TORCH, f"{ROOT}[{EXTRAS}]")
    for name in ("tests", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("pyproject.toml", "README.md", "cli.py"):
        shutil.copy(ROOT / name, folder)
    session.chdir(folder)
    quick = ["-m", "not full", "--ignore", "tests/house", "-n", "2", *session.posargs]
    session.run("python", "-m", "pytest", "-q", *quick, env={"OMP_NUM_THREADS": "1"})
