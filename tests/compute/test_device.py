"""Which device and precision a name means, and what a process of several makes its own."""

from pathlib import Path

import pytest
import torch

from kdcache.compute.device import resolve_device, resolve_precision
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_job import prepare
from kdcache.errors import UsageError
from kdcache.text.corpus import TextFiles

GPU = torch.device("cuda", 0)


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """PyTorch believes that there are four GPUs; returned are those that were made the current one."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


@pytest.mark.usefixtures("four_gpus")
def test_each_process_has_its_own_gpu() -> None:
    """The local rank is the number of the GPU, and a process too many is refused."""
    assert [resolve_device(name, 3) for name in ("auto", "cuda", "cpu")] == [
        torch.device("cuda", 3),
        torch.device("cuda", 3),
        torch.device("cpu"),
    ]
    with pytest.raises(UsageError, match="Process 4 of this machine has no GPU: PyTorch sees 4"):
        resolve_device("auto", 4)


def test_no_gpu_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch sees no GPU, "auto" is the CPU and "cuda" an error."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto", 3) == torch.device("cpu")
    with pytest.raises(UsageError, match="sees no CUDA device"):
        resolve_device("cuda")


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_bfloat16_is_chosen_where_a_gpu_has_it(monkeypatch: pytest.MonkeyPatch, native: bool, expected: str) -> None:
    """A GPU that only imitates bfloat16, which PyTorch counts as support by default, gets float32 by itself."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert resolve_precision("auto", GPU) == expected
    assert resolve_precision("bfloat16", GPU) == "bfloat16"
    assert resolve_precision("auto", torch.device("cpu")) == "float32"


def test_a_dump_leaves_the_first_gpu_to_others(
    four_gpus: list[torch.device], small_teacher: Path, small_text: TextFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process makes its GPU the current one before it loads anything, or it would open a context on the first."""
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    loaded: list[list[torch.device]] = []

    def load(_module: torch.nn.Module, device: torch.device) -> None:
        loaded.append([*four_gpus, device])
        raise InterruptedError("there is no GPU to go on with")

    monkeypatch.setattr(torch.nn.Module, "to", load)
    with pytest.raises(InterruptedError):
        prepare(DumpConfig(str(small_teacher), small_text, device="cuda", precision="float32"))
    assert loaded == [[torch.device("cuda", 2), torch.device("cuda", 2)]]
