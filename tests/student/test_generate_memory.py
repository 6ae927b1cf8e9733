"""A beam search for which memory does not suffice: real allocations fail, by a limit on the address space."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from faults import little_memory, python
from models import toy_lines

from kdcache.errors import ModelError
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate
from kdcache.student.seq2seq import Student

LINES = 300
BATCH = 1_000_000
MIB = 1 << 20


def config(folder: str, max_tokens: int, beam_size: int = 4) -> GenerateConfig:
    return GenerateConfig(folder, "lines", beam_size=beam_size, max_tokens=max_tokens, device="cpu")


def main(folder: str) -> None:
    """Write twice in a process of its own with no more memory than there is after the first line, but for little."""
    student, lines = Student.load(Path(folder)), toy_lines("src", LINES)
    generate(student, lines[:1], config(folder, 1))
    for room, beam_size in ((1, 50_000), (2, 4)):
        with little_memory(room * MIB):
            try:
                print(json.dumps(generate(student, lines, config(folder, BATCH, beam_size))))
            except ModelError as error:
                print(json.dumps(str(error)))


def test_a_search_for_which_memory_does_not_suffice(small_student: Path) -> None:
    """Halves that fit give the same texts; where a single line does not fit, the error says what to lower."""
    done = python(__file__, small_student)
    assert done.returncode == 0, done.stderr
    message, texts = map(json.loads, done.stdout.splitlines())
    assert message.startswith("The memory does not suffice for a beam search over one source of ")
    assert "Lower --beam-size" in message
    student, lines = Student.load(small_student), toy_lines("src", LINES)
    tokens = LINES * max(map(len, student.tokenizer.encode_sources(lines)))
    said = f"does not suffice for {tokens:,} padded tokens at once; going on with {tokens // 2:,} at most"
    assert said in done.stderr
    assert texts == generate(student, lines, config(str(small_student), BATCH))


if __name__ == "__main__":
    main(*sys.argv[1:])
