"""A GPU where there is none: devices, types and shapes are those that a GPU would have; numbers there are not.

PyTorch's fake tensors say that they lie on a device without lying there. An operation on tensors of two devices fails
as on a GPU, and so does whatever needs a number on the host.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
_CUDA = 1


class Gpu(TorchDispatchMode):
    """What happens between host and GPU while it is watched.

    Attributes:
        waits: copies for which the host waits: not asked to be asynchronous, or out of ordinary memory.
        mixed: operations other than copies that take or give tensors of both.
        order: "copy" for each asynchronous copy to the host, "event" for each event that is recorded.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self.mode = mode
        self.waits: list[str] = []
        self.mixed: list[str] = []
        self.order: list[str] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor)]
        if {"cpu", "cuda"} <= {one.device.type for one in tensors}:
            self._note(func, args, kwargs or {})
        return result

    def _note(self, func: Any, args: Any, kwargs: Any) -> None:
        # `fill_` hands a GPU's kernel the number itself.
        if func.name().startswith("aten::fill_"):
            return
        if not func.name().startswith(("aten::copy_", "aten::_to_copy", "aten::to.")):
            self.mixed.append(func.name())
            return
        given = dict(zip((one.name for one in func._schema.arguments), args, strict=False)) | kwargs
        source = given["src"] if func.name().startswith("aten::copy_") else args[0]
        if not given.get("non_blocking") or not (source.is_cuda or getattr(source, "pinned", False)):
            self.waits.append(f"{func.name()} {tuple(source.shape)} from {source.device.type}")
        elif source.is_cuda:
            self.order.append("copy")

    def put(self, module: nn.Module) -> None:
        """Put the parameters and buffers of a module on the GPU; what is one stays one."""
        with torch._subclasses.fake_tensor.unset_fake_temporarily():
            fakes = {id(one): self.mode.from_tensor(one.detach()) for one in (*module.parameters(), *module.buffers())}
        moved: dict[int, Any] = {}
        for part in module.modules():
            for own in (part._parameters, part._buffers):
                for name, one in own.items():
                    if one is not None and id(one) not in moved:
                        there = fakes[id(one)].to(GPU)
                        moved[id(one)] = nn.Parameter(there) if isinstance(one, nn.Parameter) else there
                    own[name] = None if one is None else moved[id(one)]
            if isinstance(part, nn.RNNBase):
                part._flat_weights = [getattr(part, name) for name in part._flat_weights_names]
        self.waits.clear()


@contextmanager
def _guard() -> Iterator[None]:
    """Let PyTorch take its own guard that does nothing for that of a GPU, as a CUDA build does where no GPU is.

    In a build without CUDA there is none to be replaced. Here one stands for it, all of whose functions return 0.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    registry = (ctypes.c_void_p * 32).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    if registry[_CUDA]:
        yield
        return
    zero = ctypes.CFUNCTYPE(ctypes.c_int8)(lambda: 0)
    functions = (ctypes.c_void_p * 64)(*[ctypes.cast(zero, ctypes.c_void_p).value] * 64)
    stand_in = ctypes.c_void_p(ctypes.addressof(functions))
    registry[_CUDA] = ctypes.addressof(stand_in)
    try:
        torch._C._ensureCUDADeviceGuardSet()
        assert registry[_CUDA] != ctypes.addressof(stand_in)
        yield
    finally:
        registry[_CUDA] = None


@contextmanager
def pretended_gpu() -> Iterator[Gpu]:
    """Everything inside sees a GPU that computes nothing. Backward passes give zeros: they need a GPU's own threads."""

    class Event:
        def record(self) -> None:
            gpu.order.append("event")

        def record_event(self) -> Event:
            self.record()
            return self

    def pinned(tensor: Tensor, *_device: Any) -> Tensor:
        copy = tensor.clone()
        copy.pinned = True  # type: ignore[attr-defined]
        return copy

    def gradient(_value: Tensor, leaf: Tensor) -> tuple[Tensor]:
        return (torch.zeros_like(leaf),)

    with _guard(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "current_stream", lambda _device: Event())
        patch.setattr(Tensor, "pin_memory", pinned)
        patch.setattr(Tensor, "backward", lambda _tensor: None)
        patch.setattr(torch.autograd, "grad", gradient)
        # cuDNN is asked whether it is there, and warns where it is not.
        with torch.backends.cudnn.flags(enabled=False), FakeTensorMode() as mode, Gpu(mode) as gpu:
            yield gpu
