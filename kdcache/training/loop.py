"""The one training loop, for teacher and student."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Generic

import torch
from torch import Tensor

from kdcache.compute.device import autocast, is_out_of_memory, resolve_device, resolve_precision
from kdcache.console.progress import Progress
from kdcache.errors import StoppedError, TrainingError, UsageError
from kdcache.files.atomic import sha256
from kdcache.files.run_records import METRICS_FILE, log
from kdcache.losses.projection import LossSums
from kdcache.process.signals import StopRequest, stop_on_signals
from kdcache.training import checkpoint
from kdcache.training.batches import Sections, epoch_order
from kdcache.training.checkpoint import Position
from kdcache.training.group import Group
from kdcache.training.loader import B, Loader, StepBatches, Task, step_batches
from kdcache.training.metrics import Metrics
from kdcache.training.step import Report, Stepper, StepRequests, learning_rate
from kdcache.training.training_config import TrainingConfig

_BAD_STEPS_MAX = 10
# A GPU may be this many steps behind when the host reads the outcome of one; then the next is already in its queue.
_LATE = {"cpu": 0, "cuda": 1}
# The loop waits this long for a batch before it looks whether a signal asked to stop.
_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class FitResult:
    """The result of a training, as `run.json` has it.

    Attributes:
        steps: optimizer steps taken.
        exported_steps: the steps whose parameters, or their mean, the model now has.
        valid_nll: mean of -log P(word) over the validation targets at the best validation, in nats, or None.
        averaged_valid_nll: the same of the mean of the last checkpoints, or None if none was asked for.
        valid_accuracy: share of the validation targets that the model now gets right, or None.
        seconds, loader_wait_share: seconds of this process in training, and the share of them in which it waited for
            batches; earlier processes of an interrupted run are not counted.
    """

    steps: int
    exported_steps: tuple[int, ...]
    valid_nll: float | None
    averaged_valid_nll: float | None
    valid_accuracy: float | None
    seconds: float = field(compare=False)
    loader_wait_share: float = field(compare=False)

    @property
    def exported(self) -> str:
        """The steps in words, marked as a mean where there are several."""
        words = ", ".join(f"{step:,}" for step in self.exported_steps)
        return words if len(self.exported_steps) == 1 else f"{words} (the mean)"

    @property
    def loss(self) -> float | None:
        """The validation loss of the model as it is now."""
        return self.valid_nll if self.averaged_valid_nll is None else self.averaged_valid_nll


def count_steps(sections: Sections, config: TrainingConfig, give_up: Callable[[], None] = lambda: None) -> int:
    """Optimizer steps of a whole run: `max_steps`, or `epochs` times the batches of epoch 0.

    `give_up` is called now and then while a section is waited for; what it raises ends the wait.
    """
    if config.max_steps is not None:
        return config.max_steps
    first = sum(1 for _ in epoch_order(sections, config.max_tokens, config.seed, 0, give_up=give_up))
    return first * (config.epochs or 0)


def why_not_longer(config: TrainingConfig, output: Path) -> str | None:
    """Why the training in `output` cannot go on to more steps as if it had been meant to take them; None if it can."""
    if config.schedule != "noam":
        return "with --schedule linear the learning rate came down to 0; --start-from goes on from the weights"
    if config.warmup is None:
        return "without --warmup the learning rate would have risen for longer"
    if config.patience is not None:
        return "with --patience it may have stopped for good"
    if not checkpoint.saved(output / checkpoint.FOLDER):
        return "no checkpoint is left, since --keep-checkpoints was not given"
    return None


def fit(
    task: Task[B],
    sections: Sections,
    config: TrainingConfig,
    output: Path,
    run: str,
    group: Group = Group(),  # noqa: B008 (frozen)
    validated: Callable[[float], None] = lambda _loss: None,
) -> FitResult:
    """Train `task.model`, continuing from the newest checkpoint in `output` if there is one.

    `run` identifies data and settings; checkpoints of another run are refused. `validated` is told each validation
    loss. Interrupted and repeated, training
    takes the same steps as if it had never stopped (bitwise on a CPU with the same number of threads and processes).

    Raises:
        UsageError: validations are to decide something, and there is no validation text.
        TrainingError: the loss stays non-finite, a checkpoint is foreign or damaged, or another process failed.
        CorruptError: a shard is damaged or missing.
        CacheError: a shard cannot be fetched.
        StoppedError: a signal asked to stop; a checkpoint was saved.
        OutputError: a checkpoint could not be written.
    """
    for option, value in (("--patience", config.patience), ("--average", config.average)):
        if value and task.valid is None:
            raise UsageError(f"{option} needs a validation text (--valid-source and --valid-target, or --valid-pairs).")
    with stop_on_signals(repeated=group.count > 1) as stop:
        loop = _Loop(task, sections, config, output, run, group, stop, validated)
        with loop.metrics:
            return loop.run_all()


class _Loop(Generic[B]):
    """The state of one process's training."""

    def __init__(
        self,
        task: Task[B],
        sections: Sections,
        config: TrainingConfig,
        output: Path,
        run: str,
        group: Group,
        stop: StopRequest,
        validated: Callable[[float], None],
    ) -> None:
        self.validated = validated
        self.task, self.sections, self.config, self.run = task, sections, config, run
        self.group, self.stop = group, stop
        self.device = resolve_device(config.device, group.process.local)
        self.model = task.model.to(self.device)
        self.stepper = Stepper(self.model, config, self.device, group)
        self.checkpoints = output / checkpoint.FOLDER
        self.total = count_steps(sections, config, stop.check)
        self.position = self._restore()
        self.metrics = Metrics(output / METRICS_FILE if group.leads else None, self.position, config.report_to)
        self.reports: deque[Report] = deque()
        self.bad_steps = 0
        self.asked: int | None = None
        self.save_due = False
        self.saved_at, self.saved_step = time.monotonic(), self.position.step

    def _restore(self) -> Position:
        with self.group.all_or_none():
            restored = checkpoint.restore(self.checkpoints, self.run, self.model, self.stepper.optimizer)
        if self.group.count > 1 and len(set(self.group.gather(f"{restored} {_digest(self.model)}"))) > 1:
            raise TrainingError(
                "The processes start from different checkpoints or models. All of them must see the same --output "
                "folder, the same inputs and the same versions of the packages."
            )
        if restored is not None:
            if self.group.leads:
                checkpoint.set_aside_after(self.checkpoints, restored)
            log.info("Continuing after step %s of %s.", f"{restored.step:,}", f"{self.total:,}")
        return restored or Position()

    def run_all(self) -> FitResult:
        """Take the remaining steps and leave the model with what is to be exported."""
        start = time.monotonic()
        stream = partial(step_batches, self.task, self.sections, self.config, self.position, self.group, self.device)
        shown = self.group.leads
        with (
            Progress("training", self.total, "steps", self.position.step, shown=shown) as progress,
            Loader(stream, self.device) as steps,
        ):
            patience = math.inf if self.config.patience is None else self.config.patience
            while self.position.step < self.total and self.position.stale < patience:
                while not steps.ready(_PATIENCE_SECONDS):
                    self._stop_while_waiting()
                batches = next(steps)
                if batches is None:
                    self._end_epoch()
                else:
                    self._step(batches, steps.waited)
                    progress.advance(1, self.metrics.note)
        self._read_reports(0)
        self._validate()
        self._save()
        self._stop_if_asked()
        exported, averaged_loss, accuracy = self._export()
        seconds = time.monotonic() - start
        times = round(seconds, 3), round(steps.waited / max(seconds, 1e-9), 6)
        return FitResult(self.position.step, exported, self.position.best_loss, averaged_loss, accuracy, *times)

    def _stop_while_waiting(self) -> None:
        # Several processes stop at the same step, so a process of several has to wait for that step.
        if self.stop.number is not None and self.group.count == 1:
            self._read_reports(0)
            self._save()
            raise StoppedError(self.stop.number)

    def _step(self, batches: StepBatches[B], waited: float) -> None:
        self.model.train()
        step = self.position.step + 1
        rate = learning_rate(self.config, step, self.task.width, self.total)
        try:
            report = self.stepper.take(self.task, batches.micro_batches, step, rate, self._requests)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"The memory does not suffice for a forward and backward pass of {self.config.most_tokens:,} padded "
                "tokens. Run the same command again with a lower --micro-tokens, which may change between runs: it "
                "continues from the last checkpoint."
            ) from error
        self.position = replace(self.position, step=step, consumed=batches.index + 1)
        self.metrics.add(step, report.names, report.sums, rate, report.norm, waited)
        self.reports.append(report)
        self._read_reports(_LATE[self.device.type])
        every = self.config.valid_every
        if every is not None and step % every == 0:
            self._validate()
        if self.save_due:
            self._save()
        self._stop_if_asked()

    def _requests(self) -> StepRequests:
        # Only the first process's clock decides when to save, so that all save the same step.
        due = self.group.leads and time.monotonic() - self.saved_at >= self.config.save_seconds
        return StepRequests(self.stop.number, due)

    def _read_reports(self, late: int) -> None:
        while len(self.reports) > late:
            report = self.reports.popleft()
            skipped, requests = report.outcome()
            self.asked = requests.signal if self.asked is None else self.asked
            # Where flags are read late, a request is repeated before it is met.
            self.save_due |= requests.save and report.step > self.saved_step
            self.bad_steps = self.bad_steps + 1 if skipped else 0
            if skipped:
                log.warning("Step %s was skipped: its loss or gradient is not finite.", report.step)
            if self.bad_steps == _BAD_STEPS_MAX:
                raise TrainingError(
                    f"Loss or gradient were not finite in {_BAD_STEPS_MAX} steps in a row, up to step {report.step}. "
                    "Lower --learning-rate, lengthen --warmup, or use --precision float32."
                )

    def _stop_if_asked(self) -> None:
        if self.asked is not None:
            self._save()
            raise StoppedError(self.asked)

    def _end_epoch(self) -> None:
        self.position = replace(self.position, epoch=self.position.epoch + 1, consumed=0)
        if self.config.valid_every is None:
            self._validate()
        self._stop_if_asked()

    def _validate(self) -> None:
        if self.position.validated == self.position.step or self.task.valid is None:
            return
        means = self._valid_means(self.task.valid)
        step, loss = self.position.step, means["nll"]
        self.metrics.write({"step": step, **{f"valid_{name}": value for name, value in means.items()}})
        recent = (*self.position.recent, step)[-self.config.average :] if self.config.average else ()
        self.position = replace(self.position, validated=step, stale=self.position.stale + 1, recent=recent)
        if loss < (math.inf if self.position.best_loss is None else self.position.best_loss):
            self.position = replace(self.position, best_step=step, best_loss=loss, stale=0)
        best = " (best)" if self.position.best_step == step else ""
        log.info("step %s: validation loss %.4f, accuracy %.1f %%%s", f"{step:,}", loss, 100 * means["correct"], best)
        self.validated(loss)
        self._save()

    @torch.no_grad()
    def _valid_means(self, batches: Sequence[B]) -> dict[str, float]:
        """Means over all validation targets. Each process takes its share of the batches."""
        self.model.eval()
        share = batches[self.group.process.rank :: self.group.count]
        with autocast(self.device, resolve_precision(self.config.precision, self.device)):
            mine = add_up(self.task.valid_loss(self.task.move(batch, self.device)) for batch in share)
        sums: dict[str, float] = {}
        for theirs, number in self.group.gather((mine, self.stop.number)):
            self.asked = number if self.asked is None else self.asked
            for name, value in theirs.items():
                sums[name] = sums.get(name, 0.0) + value
        n_tokens = sums.pop("n_tokens")
        return {name: value / n_tokens for name, value in sums.items()}

    def _save(self) -> None:
        with self.group.all_or_none():
            if self.group.leads:
                self.position = replace(self.position, unlogged=self.metrics.unlogged())
                checkpoint.save(self.checkpoints, self.position, self.run, self.model, self.stepper.optimizer)
        self.save_due = False
        self.saved_at, self.saved_step = time.monotonic(), self.position.step

    def _export(self) -> tuple[tuple[int, ...], float | None, float | None]:
        position = self.position
        if position.best_step is None or self.task.valid is None:
            return (position.step,), None, None
        exported = position.recent or (position.best_step,)
        with self.group.all_or_none():
            checkpoint.load_mean(self.checkpoints, exported, self.model)
        means = self._valid_means(self.task.valid)
        if not position.recent:
            return exported, None, means["correct"]
        loss = means["nll"]
        log.info(
            "The mean of the checkpoints of steps %s: validation loss %.4f; the best of one step: %.4f.",
            ", ".join(map(str, exported)),
            loss,
            position.best_loss,
        )
        return exported, loss, means["correct"]


def add_up(losses: Iterable[LossSums]) -> dict[str, float]:
    """Sums of the named parts and of the target positions, read from the device once."""
    sums: dict[str, Tensor] = {}
    n_tokens = 0
    for loss in losses:
        n_tokens += loss.n_tokens
        for name, value in loss.parts.items():
            sums[name] = sums[name] + value if name in sums else value.double()
    return {"n_tokens": float(n_tokens), **{name: float(value) for name, value in sums.items()}}


def _digest(model: torch.nn.Module) -> str:
    digests = [sha256(p.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()) for p in model.parameters()]
    return sha256("".join(digests).encode())
