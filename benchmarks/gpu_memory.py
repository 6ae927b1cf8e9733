"""Memory held while a teacher and a student train, after 50 steps and after many: a run of kdcache in this process."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.job import SHAPES, save_teacher
from benchmarks.report import publish
from benchmarks.student_step import make_cache
from benchmarks.text import first_pairs
from kdcache.errors import StoppedError
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.student.student_config import SIZES, StudentConfig
from kdcache.student.train_student import train_student
from kdcache.teacher.teacher_config import TeacherConfig
from kdcache.teacher.train_teacher import train_teacher
from kdcache.training.training_config import TrainingConfig


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--pairs", type=int, default=16_384, help="pairs of text")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="base", help="of the teacher")
    parser.add_argument("--size", choices=tuple(SIZES), default="base", help="of the student")
    parser.add_argument("--tokens", type=int, default=4_096, help="padded tokens of a step")
    parser.add_argument("--early", type=int, default=50, help="steps before the first measurement")
    parser.add_argument("--steps", type=int, default=2_000, help="steps before the second")
    parser.add_argument("--seconds", type=float, default=40.0, help="after which a run stops with fewer steps")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    rows, figures = [("what", "step", "MiB")], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = first_pairs(folder, options.pairs)
        save_teacher(folder / "bert", text, options.shape)
        cache = make_cache(folder, text)
        rate = SIZES[options.size].learning_rate
        training = TrainingConfig(rate, max_tokens=options.tokens, max_steps=options.steps)
        teacher = TeacherConfig(text, str(folder / "bert"), training=training)
        student = StudentConfig(str(cache), ObjectiveConfig(alpha=0.5), training, size=options.size)
        for what, train in (
            ("teacher", lambda: train_teacher(teacher, folder / "teacher")),
            ("student", lambda: train_student(student, folder / "student")),
        ):
            seen = held_while(train, options.early, options.seconds)
            for kind in seen[0][1]:
                early, late = seen[0][1][kind], seen[-1][1][kind]
                rows += [(f"{what}, {kind}", f"{step:,}", f"{held[kind]:,.0f}") for step, held in (seen[0], seen[-1])]
                figures[f"{what}_{kind}_late_over_early"] = late / early
                figures[f"{what}_{kind}_late_mib"] = late
            figures[f"{what}_steps"] = seen[-1][0]
    publish(rows, figures)


def held_while(train: Callable[[], object], early: int, seconds: float) -> list[tuple[int, dict[str, float]]]:
    """What is held after step `early` and after each later one, in MiB by kind; the run is asked to stop in time."""
    seen: list[tuple[int, dict[str, float]]] = []
    step, end = 0, time.monotonic() + seconds

    def after(*_arguments: object) -> None:
        nonlocal step
        step += 1
        if step >= early:
            seen[1:] = []
            seen.append((step, _held()))
        if step > early and time.monotonic() > end:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = register_optimizer_step_post_hook(after)
    try:
        train()
    except StoppedError:
        pass
    finally:
        hook.remove()
    return seen


def _held() -> dict[str, float]:
    if torch.cuda.is_available():
        found = {"allocated": torch.cuda.memory_allocated(), "reserved": torch.cuda.memory_reserved()}
        return {kind: size / 2**20 for kind, size in found.items()}
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return {"anonymous": int(kilobytes) / 2**10}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    run(parser.parse_args(sys.argv[1:]))
