"""Public names of a package that are loaded when they are asked for, so that a command's help waits for none."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, module_of: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of `package` (PEP 562), which takes each name from its module in `module_of`.

    A module that calls the name otherwise is written `module:name`.
    """

    def load(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, there = module_of[name].partition(":")
        return getattr(import_module(f"{package}.{module}"), there or name)

    return load
