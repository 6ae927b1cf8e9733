"""The loss in chunks against the plain one, at the output layer of a Transformer-base with 30,000 words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.memory import peak_mib
from benchmarks.report import alternate, ratio, seconds, spread
from kdcache.compute.device import autocast, resolve_precision
from kdcache.labels.soft_labels import SoftLabels
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.losses.projection import OutputLayer, projected_loss

WIDTH, WORDS, TOKENS, TOPK = 512, 30_000, 8_192, 8
CONFIG = ObjectiveConfig(alpha=0.5, temperature=1.0, label_smoothing=0.1, name="chen2020")
ARMS = ("chunked", "plain")


class Layer:
    """Hidden states, a matrix, labels and soft labels, all drawn at random, and the two ways to a gradient."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.hidden = torch.randn(TOKENS, WIDTH, device=device, requires_grad=True)
        self.weight = (torch.randn(WORDS, WIDTH, device=device) * WIDTH**-0.5).requires_grad_()
        self.labels = torch.randint(WORDS, (TOKENS,), device=device)
        ids = torch.randint(WORDS // TOPK, (TOKENS, TOPK), device=device) * TOPK + torch.arange(TOPK, device=device)
        log_probs = torch.log_softmax(torch.randn(TOKENS, TOPK, device=device), dim=1).sort(descending=True).values
        self.soft = SoftLabels(ids, log_probs.half())

    def chunked(self) -> None:
        """As students are trained."""
        layer = OutputLayer(self.weight, None)
        with self._precision():
            total = projected_loss(self.hidden, layer, self.labels, self.soft, CONFIG).total
        self._back(total)

    def plain(self) -> None:
        """As one would write it with whole logits; one log-sum-exp serves all terms here too."""
        with self._precision():
            logits = functional.linear(self.hidden, self.weight).float()
        normalizer = torch.logsumexp(logits, dim=1)
        nll = normalizer - logits.gather(1, self.labels[:, None])[:, 0]
        hard = 0.9 * nll + 0.1 * (normalizer - logits.mean(dim=1))
        q = torch.softmax(self.soft.log_probs.float(), dim=1)
        soft = normalizer - (q * logits.gather(1, self.soft.token_ids)).sum(dim=1)
        self._back((0.5 * hard + 0.5 * soft).sum())

    def _precision(self) -> AbstractContextManager[None]:
        device = self.hidden.device
        return autocast(device, resolve_precision("auto", device))

    def _back(self, total: Tensor) -> None:
        (total / TOKENS).backward()  # type: ignore[no-untyped-call]
        self.hidden.grad = self.weight.grad = None
        if self.hidden.is_cuda:
            torch.cuda.synchronize()


def measure(rounds: int) -> tuple[list[tuple[str, str]], dict[str, float]]:
    """Rows and figures: seconds alternately in one process, memory in a fresh process for each arm."""
    layer = Layer()
    work: dict[str, Callable[[], None]] = {"chunked": layer.chunked, "plain": layer.plain}
    times = alternate({name: lambda one=one: seconds(one) for name, one in work.items()}, rounds)  # type: ignore[misc]
    del layer
    # To the byte the same each time.
    peaks = {arm: _peak_alone(arm) for arm in ARMS}
    rows = [(f"loss of 8,192 positions, {arm}: s", spread(times[arm])) for arm in ARMS]
    rows += [(f"loss of 8,192 positions, {arm}: MiB", f"{peaks[arm]:,.0f}") for arm in ARMS]
    return rows, {
        "chunked_over_plain_time": ratio(times["chunked"], times["plain"]),
        "chunked_over_plain_memory": peaks["chunked"] / peaks["plain"],
    }


def _peak_alone(arm: str) -> float:
    command = [sys.executable, "-m", "benchmarks.projection", arm]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(peak_mib(getattr(Layer(), sys.argv[1])))
