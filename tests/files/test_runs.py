"""What a command records about itself, and what it does when it is run again."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import kdcache
from kdcache.errors import CorruptError, MismatchError, OutputError
from kdcache.files.run_records import LOG_FILE, PACKAGES, RUN_FILE, file_run, folder_run, set_aside, versions


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    steps: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Config:
    text: Path = Path("some/file")
    sizes: tuple[int, ...] = (1, 2)
    device: str = "auto"
    inner: Inner = field(default_factory=Inner)


@pytest.fixture(autouse=True)
def own_log_files() -> Iterator[None]:
    """Each test's log files are closed with it."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in [one for one in root.handlers if one not in before]:
        root.removeHandler(handler)
        handler.close()


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_record_says_what_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """run.json holds command, resolved configuration, versions, arguments and times, and the result when finished."""
    monkeypatch.setattr(sys, "argv", ["kdcache", "make", "--output", "x"])
    run = folder_run(tmp_path / "a" / "b", "make", Config())
    assert not run.finished
    assert run.record == tmp_path / "a" / "b" / RUN_FILE
    found = content(run.record)
    assert found["command"] == "make"
    assert found["config"] == {
        "text": "some/file",
        "sizes": [1, 2],
        "device": "auto",
        "inner": {"rate": 0.1, "steps": None, "device": "cpu"},
    }
    assert found["argv"] == ["make", "--output", "x"]
    assert found["versions"] == versions()
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(found["started"])).total_seconds()) < 60
    assert "finished" not in found
    run.finish({"loss": 1.5})
    after = content(run.record)
    assert after["result"] == {"loss": 1.5}
    assert {name: after[name] for name in found} == found
    assert datetime.fromisoformat(after["finished"]) >= datetime.fromisoformat(after["started"])


def test_versions_of_what_decides_the_result() -> None:
    """kdcache, Python and every package that takes part are listed with their installed versions."""
    found = versions()
    assert set(found) == {"kdcache", "python", *PACKAGES}
    assert found["kdcache"] == kdcache.__version__
    assert found["python"] == platform.python_version()
    assert found["numpy"] == importlib.metadata.version("numpy")


def test_running_again_continues_and_then_finds_it_finished(tmp_path: Path) -> None:
    """The same command finds its unfinished run, keeps its start, and after the end finds it finished."""
    record = folder_run(tmp_path, "make", Config()).record
    aged = {**content(record), "started": "2020-01-01T00:00:00+00:00"}
    record.write_text(json.dumps(aged))
    (tmp_path / "weights").write_text("half")
    again = folder_run(tmp_path, "make", Config())
    assert not again.finished
    assert content(record)["started"] == "2020-01-01T00:00:00+00:00"
    again.finish({"loss": 1.5})
    before = record.read_bytes()
    done = folder_run(tmp_path, "make", Config())
    assert done.finished
    assert done.content["result"] == {"loss": 1.5}
    assert record.read_bytes() == before


@pytest.mark.parametrize(
    ("config", "name", "stored", "given_"),
    [
        (Config(text=Path("other")), "text", "some/file", "other"),
        (Config(sizes=(1, 2, 3)), "sizes", [1, 2], [1, 2, 3]),
        (Config(inner=Inner(rate=0.2)), "inner.rate", 0.1, 0.2),
        (Config(inner=Inner(steps=5)), "inner.steps", None, 5),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_another_configuration_is_refused(
    tmp_path: Path, config: Config, name: str, stored: object, given_: object, finished: bool
) -> None:
    """A folder begun with other settings is refused with the field, both values and the way out; it stays as it is."""
    run = folder_run(tmp_path, "make", Config())
    (tmp_path / "made").touch()
    if finished:
        run.finish({})
    before = run.record.read_bytes()
    with pytest.raises(MismatchError, match="choose another output") as caught:
        folder_run(tmp_path, "make", config)
    assert (caught.value.field, caught.value.stored, caught.value.given) == (name, stored, given_)
    assert name in str(caught.value)
    assert run.record.read_bytes() == before
    with pytest.raises(MismatchError, match="command differs: stored 'make', given 'bake'"):
        folder_run(tmp_path, "bake", Config())


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    """The same settings on changed content are refused, finished or not; the same content is found finished."""
    run = folder_run(tmp_path, "make", Config(), {"text": "abc"})
    (tmp_path / "made").touch()
    for step in ("begun", "finished"):
        with pytest.raises(MismatchError, match="the text was abc the first time, now abd"):
            folder_run(tmp_path, "make", Config(), {"text": "abd"})
        if step == "begun":
            run.finish({})
    assert folder_run(tmp_path, "make", Config(), {"text": "abc"}).finished


def test_a_first_try_that_made_nothing_does_not_bind(tmp_path: Path) -> None:
    """A run that left only its record and log may be repeated with other settings."""
    folder_run(tmp_path, "make", Config())
    run = folder_run(tmp_path, "make", Config(sizes=()))
    assert content(run.record)["config"]["sizes"] == []


def test_a_field_that_one_side_lacks_is_a_difference(tmp_path: Path) -> None:
    """A record of an older kdcache with one setting less is refused by that setting's name."""
    record = folder_run(tmp_path, "make", Config()).record
    (tmp_path / "made").touch()
    older = content(record)
    del older["config"]["sizes"]
    record.write_text(json.dumps(older))
    with pytest.raises(MismatchError, match=r"sizes is given now \(1, 2\), not then"):
        folder_run(tmp_path, "make", Config())


def test_the_device_may_change(tmp_path: Path) -> None:
    """Where a run continues is free, on every level of the configuration."""
    folder_run(tmp_path, "make", Config())
    (tmp_path / "made").touch()
    other = Config(device="cuda", inner=Inner(device="cuda"))
    assert not folder_run(tmp_path, "make", other).finished
    assert content(tmp_path / RUN_FILE)["config"]["device"] == "cuda"


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    """A folder with somebody else's files is refused by naming one; logs and hidden files do not count."""
    (tmp_path / LOG_FILE).touch()
    (tmp_path / ".hidden").touch()
    folder_run(tmp_path, "make", Config()).record.unlink()
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"holds other files \(thesis\.txt\) and no run\.json"):
        folder_run(tmp_path, "make", Config())
    assert not (tmp_path / RUN_FILE).exists()


def test_a_run_that_is_not_fixed_starts_anew(tmp_path: Path) -> None:
    """Where the folder has an identity of its own, another configuration replaces the record."""
    (tmp_path / "plan.json").touch()
    folder_run(tmp_path, "make", Config(), fixed=False).finish({})
    run = folder_run(tmp_path, "make", Config(sizes=()), fixed=False)
    assert not run.finished
    assert content(run.record)["config"]["sizes"] == []
    assert "finished" not in content(run.record)


@pytest.mark.parametrize(
    "record", ["", "[]", "7", "{}", '{"config": 1}', '{"command": "make"}', '{"config": {}, "config": {}}']
)
def test_damaged_record_is_refused(tmp_path: Path, record: str) -> None:
    """A record that is no JSON object with a configuration is refused by name and kept."""
    (tmp_path / RUN_FILE).write_text(record)
    (tmp_path / "made").touch()
    with pytest.raises(CorruptError, match=r"run\.json"):
        folder_run(tmp_path, "make", Config())
    assert (tmp_path / RUN_FILE).read_text() == record


def test_a_file_in_place_of_the_folder_is_an_output_error(tmp_path: Path) -> None:
    """An output folder that is a file gives a clear error."""
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="out: cannot be written"):
        folder_run(tmp_path / "out", "make", Config())


def test_what_was_made_is_set_aside_and_nothing_else(tmp_path: Path) -> None:
    """A folder, or a file with its record and log, gets a name with the time; what kdcache did not make stays."""
    set_aside(tmp_path / "nothing here")
    for _ in range(2):
        folder_run(tmp_path / "run", "make", Config())
        (tmp_path / "run" / "made").touch()
        set_aside(tmp_path / "run")
    found = sorted(path.name for path in tmp_path.iterdir())
    assert len(found) == 2, "the second one took the name of the first"
    assert all(re.fullmatch(r"run\.\d{4}-\d\d-\d\d-\d{6}(-2)?", name) for name in found)
    assert all((tmp_path / name / "made").exists() for name in found)
    (tmp_path / "hyp").write_text("text")
    with pytest.raises(OutputError, match=r"moves away only what kdcache made, and no hyp\.run\.json says"):
        set_aside(tmp_path / "hyp")
    (tmp_path / "hyp.run.json").touch()
    set_aside(tmp_path / "hyp")
    moved = sorted(path.name.removeprefix("hyp.") for path in tmp_path.glob("hyp*"))
    assert moved[1] == f"{moved[0]}.run.json"


def test_output_file_has_its_record_beside_it(tmp_path: Path) -> None:
    """A command with one output file records F.run.json and F.log, and refuses a file of unknown origin."""
    output = tmp_path / "hyp.txt"
    run = file_run(output, "write", Config())
    assert run.record == tmp_path / "hyp.txt.run.json"
    assert not run.finished
    output.write_text("text")
    assert not file_run(output, "write", Config()).finished
    run.finish({"lines": 1})
    assert file_run(output, "write", Config()).finished
    with pytest.raises(MismatchError, match=r"inner\.rate was 0\.1 the first time, now 3\.0"):
        file_run(output, "write", replace(Config(), inner=Inner(rate=3.0)))
    output.unlink()
    assert not file_run(output, "write", replace(Config(), inner=Inner(rate=3.0))).finished
    (tmp_path / "foreign.txt").touch()
    with pytest.raises(OutputError, match=r"no foreign\.txt\.run\.json says how it was made"):
        file_run(tmp_path / "foreign.txt", "write", Config())
    with pytest.raises(OutputError, match="its folder does not exist"):
        file_run(tmp_path / "nowhere" / "x", "write", Config())


def test_log_goes_to_the_end_of_a_file(tmp_path: Path) -> None:
    """What is logged after a run began, by any library, is appended to its log with time, level and origin."""
    (tmp_path / LOG_FILE).write_text("earlier\n")
    folder_run(tmp_path, "make", Config())
    logging.getLogger("other.library").warning("größer als %s", 3)
    lines = (tmp_path / LOG_FILE).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "earlier"
    assert lines[-1].endswith("WARNING other.library: größer als 3")
    assert datetime.fromisoformat(lines[-1][:19])
