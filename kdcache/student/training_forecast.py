"""The cost of training a student, without training it: the cache tells the steps, a few steps the time and memory."""

import resource
import time
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch

from kdcache.cache.reader import open_cache
from kdcache.compute.device import resolve_device
from kdcache.student.cached_labels import cache_sections
from kdcache.student.student_config import StudentConfig
from kdcache.student.train_student import make_task
from kdcache.training.checkpoint import Position
from kdcache.training.group import Group
from kdcache.training.loader import Loader, step_batches
from kdcache.training.loop import count_steps
from kdcache.training.step import Stepper, StepRequests

_WARM_STEPS = 2
_PILOT_STEPS = 10


@dataclass(frozen=True, slots=True)
class Forecast:
    """The cost of training a student.

    Attributes:
        steps: optimizer steps of the whole run.
        parameters: number of parameters of the student.
        peak_bytes: memory that is needed, of the GPU or else of this whole process.
        seconds: time of all steps; validation is not counted.
        pilot_steps: steps that were timed.
    """

    steps: int
    parameters: int
    peak_bytes: int
    seconds: float
    pilot_steps: int


def forecast(config: StudentConfig) -> Forecast:
    """Take some real steps and write nothing. Errors as in `kdcache.student.train_student.train_student`."""
    config.check()
    reader = open_cache(config.cache, config.store)
    sections = cache_sections(reader, config.objective, config.resample)
    task = make_task(config, reader)
    training = config.training
    device = resolve_device(training.device)
    model = task.model.to(device).train()
    stepper = Stepper(model, training, device, Group())
    times = []
    batches_of = partial(step_batches, task, sections, training, Position(), Group(), device)
    with Loader(batches_of, device) as stream:
        # A pilot longer than an epoch goes on with the next.
        steps = (batches for batches in stream if batches is not None)
        for step, batches in enumerate(islice(steps, _WARM_STEPS + _PILOT_STEPS), 1):
            start = time.perf_counter()
            stepper.take(task, batches.micro_batches, step, 0.0, StepRequests)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    timed = times[_WARM_STEPS:] or times
    total = count_steps(sections, training)
    return Forecast(
        steps=total,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        peak_bytes=_peak_bytes(device),
        seconds=total * sum(timed) / len(timed),
        pilot_steps=len(timed),
    )


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
