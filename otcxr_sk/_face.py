"""Packages whose names are loaded when they are first used."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any


def lazy_face(
    package: str, names: Sequence[str], modules: Sequence[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make `__getattr__` and `__dir__` of a package (PEP 562).

    Parameters
    ----------
    package : str
        Name of the package.
    names : sequence of str
        Its public names: modules, or what is defined in them.
    modules : sequence of str
        Modules of the package, those that load fast first. Names are searched in this order.
    """

    def load(name: str) -> Any:
        if name in names:
            if name in modules:
                return import_module(f"{package}.{name}")
            for home in modules:
                try:
                    module = import_module(f"{package}.{home}")
                except AttributeError as error:
                    # Python would take it for a name that the package does not have.
                    raise ImportError(f"cannot import {package}.{home}: {error}") from error
                if name in getattr(module, "__all__", vars(module)):
                    return getattr(module, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load, lambda: sorted(names)
