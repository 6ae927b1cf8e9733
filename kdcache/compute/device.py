"""Where the arithmetic runs, and in which precision."""

import os
from contextlib import AbstractContextManager

import torch

from kdcache.errors import UsageError

# Batches have ever new shapes, and oneDNN and PyTorch's layer over it keep what they made for 1,024 of them each, about
# a MB apiece; both read this at their first product in bfloat16. One step needs fewer than these.
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "64")

# Errors without a class of their own, from the CPU's allocator, oneDNN, and the libraries below PyTorch on a full GPU.
_MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "could not create a primitive",
    "bad_alloc",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means on this machine; of several GPUs that of number `local_rank`.

    Raises:
        UsageError: "cuda" was asked for and there is none, or there are fewer than processes.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError("--device cuda: this PyTorch sees no CUDA device. Use --device cpu, or install a CUDA build.")
    if local_rank >= torch.cuda.device_count():
        raise UsageError(
            f"Process {local_rank} of this machine has no GPU: PyTorch sees {torch.cuda.device_count()}. Start as many "
            "processes as there are GPUs, or use --device cpu."
        )
    return torch.device("cuda", local_rank)


def use(device: torch.device) -> None:
    """Make a GPU the current one of this thread.

    A thread begins on the first GPU, where pinning memory or emptying PyTorch's cache would open a context that takes
    some hundred MB of another process's GPU.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)


def resolve_precision(name: str, device: torch.device) -> str:
    """The precision of matrix products: "auto" is bfloat16 on a GPU that computes in it, and float32 elsewhere."""
    if name != "auto":
        return name
    # GPUs before 2020 (compute capability below 8) only imitate it, and are slower than in float32.
    computes = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if computes else "float32"


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; to a GPU it is copied asynchronously out of pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """A context in which matrix products run in `precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device or the machine has too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)
