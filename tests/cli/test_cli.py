"""The command line: help, exit codes, one clear line for a mistake, dry runs that write nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import run_cli, run_here

from kdcache.text.corpus import TextFiles

COMMANDS = (
    "teacher-train",
    "dump-logits",
    "student-train",
    "generate",
    "score",
    "curves",
    "inspect",
    "verify",
    "demo",
    "sweep",
)
# (arguments, exit code, what the message must hold)
MISTAKES = [
    (["teacher-train", "--bert", "scratch:tiny", "--output", "t"], 2, "--source F and --target F"),
    (["teacher-train", "--bert", "scratch:huge", "--output", "t", "--pairs", "p.tsv"], 2, "scratch:tiny"),
    (
        ["teacher-train", "--bert", "scratch:tiny", "--output", "t", "--pairs", "none.tsv"],
        1,
        "none.tsv: cannot be read: No such file",
    ),
    (["teacher-train", "--bert", "some/model", "--output", "t", "--pairs", "p.tsv"], 1, "--bert scratch:tiny"),
    (
        ["teacher-train", "--bert", "scratch:tiny", "--output", "t", "--pairs", "p.tsv", "--epochs=2", "--max-steps=3"],
        2,
        "either --epochs or --max-steps",
    ),
    (["dump-logits", "--teacher", "none", "--pairs", "p.tsv", "--output", "c"], 1, "none: there is no such folder"),
    (["dump-logits", "--teacher", "none", "--pairs", "p.tsv"], 2, "--output"),
    (["dump-logits", "--teacher", "none", "--pairs", "p.tsv", "--output", "c", "--topk", "0"], 2, "at least 1"),
    (["student-train", "--cache", "none", "--output", "s"], 1, "none: not a cache"),
    (["student-train", "--cache", "none", "--output", "s", "--alpha", "2"], 2, "between 0 and 1, not 2.0"),
    (["student-train", "--cache", "none", "--output", "s", "--temperature", "0"], 2, "above 0"),
    (
        ["student-train", "--cache", "c", "--output", "s", "--schedule", "noam", "--learning-rate", "0.001"],
        2,
        "use --schedule linear",
    ),
    (["generate", "--student", "none", "--source", "p.tsv", "--output", "o"], 1, "none: no student here"),
    (["generate", "--student", "none", "--source", "none", "--output", "o"], 1, "none: no such file"),
    (["generate", "--student", "n", "--source", "n", "--output", "o", "--beam-size", "0"], 2, "between 1 and 1000"),
    (
        ["generate", "--student", "n", "--source", "n", "--output", "o", "--length-penalty", "400"],
        2,
        "between -2 and 10",
    ),
    (["score", "--reference", "p.tsv"], 2, "either --hypothesis F, or --student DIR"),
    (["score", "--reference", "p.tsv", "--hypothesis", "none"], 1, "none: no such file"),
    (["inspect", "none"], 1, "none: not a cache"),
    (["verify"], 2, "Missing argument"),
    (["sweep", "none.toml"], 1, "none.toml: cannot be read: No such file"),
    (["sweep", "p.tsv"], 1, "p.tsv: not TOML"),
    (["curves"], 2, "Missing argument"),
    (["curves", "none"], 1, "none/metrics.jsonl: no such file"),
    (["train"], 2, "No such command"),
]


def test_a_process_ends_with_the_exit_code() -> None:
    """`kdcache --help` names each command and ends with 0, and a mistake ends the process with its code."""
    done = run_cli("--help")
    assert done.returncode == 0
    assert all(f"  {command}" in done.stdout for command in COMMANDS)
    done = run_cli("verify", "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("kdcache: none: not a cache")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_gives_one_clear_message(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    """A user's mistake ends with its exit code and a message that names it, and no exception but ours."""
    (tmp_path / "p.tsv").write_text("a b\tc d\n")
    done = run_here(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(("kdcache: ", "Error: "))


def test_quiet_says_nothing(tmp_path: Path, small_cache: Path) -> None:
    """With -q a command that succeeds prints its result only; with -v it says more than without."""
    quiet = run_here("verify", small_cache, "-q")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    arguments = ["student-train", "--cache", small_cache, "--max-steps", "1", "--output"]
    said = [run_here(*arguments, tmp_path / flag, f"-{flag}") for flag in ("q", "v")]
    assert [done.returncode for done in said] == [0, 0]
    assert said[0].stderr == ""
    assert "is saved" in said[1].stderr


def test_another_setting_is_refused(tmp_path: Path, small_cache: Path) -> None:
    """Re-running into the same folder with other settings is refused, and all that differs is said in words."""
    arguments = ["student-train", "--cache", small_cache, "--output", tmp_path / "s", "--max-steps", "1"]
    assert run_here(*arguments).returncode == 0
    (tmp_path / "v").write_text("ein\tone\n" * 9, encoding="utf-8")
    done = run_here(*arguments, "--alpha", "0.25", "--valid-pairs", tmp_path / "v", "--skip-bad", "--average", 0)
    assert done.returncode == 1
    assert (
        "run.json: the validation text is given now, not then; --alpha was 0.5 the first time, now 0.25; --skip-bad is "
        "given now, not then; --average is given now (0), not then. Repeat" in done.stderr
    )
    assert run_here(*arguments, "--alpha", "0.25", "--overwrite").returncode == 0
    (earlier,) = tmp_path.glob("s.2*")
    for folder, alpha in ((earlier, 0.5), (tmp_path / "s", 0.25)):
        assert json.loads((folder / "run.json").read_text())["config"]["objective"]["alpha"] == alpha
    together = run_here(*arguments, "--overwrite", WORLD_SIZE="2", RANK="1")
    assert (together.returncode, "--overwrite is for one process" in together.stderr) == (2, True)


PLACES = {
    "teacher-train": "text",
    "student-train": "validation text",
    "generate": "source",
    "score": "baseline hypothesis",
}


@pytest.mark.parametrize("command", PLACES)
def test_the_content_decides_and_not_where_it_lies(
    tmp_path: Path,
    small_bert: Path,
    small_text: TextFiles,
    small_cache: Path,
    small_student: Path,
    nano: str,
    command: str,
) -> None:
    """A run goes on where all that it reads was moved to another disk, and is refused where a text is another one."""
    one, two = tmp_path / "one", tmp_path / "two"
    for name, folder in (("bert", small_bert), ("cache", small_cache), ("student", small_student)):
        shutil.copytree(folder, one / name)
    for name, file in (("src", small_text.source), ("tgt", small_text.target)):
        (one / name).write_text("".join(Path(str(file)).read_text().splitlines(keepends=True)[:60]))
    output = tmp_path / "output"

    def run(disk: Path) -> subprocess.CompletedProcess[str]:
        sides, train = (disk / "src", disk / "tgt"), ("--max-steps", 2, "--output", output)
        arguments: dict[str, tuple[object, ...]] = {
            "teacher-train": ("--bert", disk / "bert", "--source", sides[0], "--target", sides[1], *train),
            "student-train": (
                *("--cache", disk / "cache", "--valid-source", sides[0], "--valid-target", sides[1]),
                *("--start-from", disk / "student", "--size", nano, *train),
            ),
            "generate": ("--student", disk / "student", "--source", sides[0], "--output", output, "--beam-size", 1),
            "score": ("--reference", sides[1], "--hypothesis", sides[0], "--json", output, "--baseline", sides[1]),
        }
        return run_here(command, *arguments[command])

    assert (first := run(one)).returncode == 0, first.stderr
    one.rename(two)
    assert (again := run(two)).returncode == 0, again.stderr
    assert "nothing to do" in again.stderr or command == "score"
    for side in ("src", "tgt"):
        (two / side).write_text((two / side).read_text().replace("a", "o"))
    refused = run(two)
    assert refused.returncode == 1
    assert f"the {PLACES[command]} is not that of the first time" in refused.stderr


def test_dump_dry_run_tells_the_truth_and_writes_nothing(
    tmp_path: Path, small_teacher: Path, small_text: TextFiles, small_cache: Path
) -> None:
    """A dry run prints the targets that the cache really has, bytes near those that it really takes, and no file."""
    text = ["--source", small_text.source, "--target", small_text.target]
    done = run_here("dump-logits", "--teacher", small_teacher, *text, "--dry-run", "--shard-pairs", "40", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    facts = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    inspected = run_here("inspect", small_cache).stdout
    targets = re.search(r"targets +([\d,]+)", inspected)
    assert targets is not None
    assert facts["targets"] == targets.group(1)
    assert facts["pairs"].startswith("150 (0 skipped) in 4 shards")
    assert {"passes", "tokens to encode", "bytes", "time"} <= set(facts)


def test_student_dry_run_writes_nothing(tmp_path: Path, small_cache: Path) -> None:
    """`student-train --dry-run` prints steps, memory and time, and no file appears."""
    done = run_here("student-train", "--cache", small_cache, "--epochs", "3", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    for word in ("parameters", "steps", "time", "memory"):
        assert word in done.stdout


def test_text_forms_are_the_same_to_teacher_train(tmp_path: Path) -> None:
    """Two files, one tab-separated file and JSON lines with the same pairs give the same teacher, byte for byte."""
    pairs = [("a b c", "d e f"), ("g h", "i j k")] * 4
    (tmp_path / "s").write_text("".join(f"{source}\n" for source, _ in pairs))
    (tmp_path / "t").write_text("".join(f"{target}\n" for _, target in pairs))
    (tmp_path / "p.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    (tmp_path / "p.jsonl").write_text("".join(f'{{"source": "{s}", "target": "{t}"}}\n' for s, t in pairs))
    texts = [["--source", "s", "--target", "t"], ["--pairs", "p.tsv"], ["--pairs", "p.jsonl"]]
    found = set()
    for number, text in enumerate(texts):
        output = tmp_path / f"teacher-{number}"
        done = run_here(
            "teacher-train", *text, "--bert", "scratch:tiny", "--output", output, "--max-steps", "1", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert "6 pairs are repetitions" in done.stderr
        found.add((output / "model.safetensors").read_bytes())
    assert len(found) == 1
