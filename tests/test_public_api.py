"""The public names and what they take; to change them on purpose, run this file as a script."""

import importlib
import inspect
from pathlib import Path

import otcxr_sk

LISTED = Path(__file__).with_name("public_api.txt")


def public_api():
    """Yield a line for every public name, its parameters with their defaults, and its methods."""
    for name in otcxr_sk.__all__:
        found = getattr(otcxr_sk, name)
        if inspect.ismodule(found):
            room = importlib.import_module(found.__name__)
            for name_there in room.__all__:
                yield from lines(f"{room.__name__}.{name_there}", getattr(room, name_there))
        else:
            yield from lines(f"otcxr_sk.{name}", found)


def lines(path, found):
    yield path + (signature(found) if callable(found) else "")
    if not inspect.isclass(found):
        return
    # What other libraries pass on, or scikit-learn makes, is theirs to change.
    own = {
        name: member
        for base in reversed(found.__mro__)
        if base.__module__.startswith("otcxr_sk")
        for name, member in vars(base).items()
        if not name.startswith("_") and not name.endswith("_request")
    }
    for name, member in sorted(own.items()):
        function = getattr(member, "__func__", member)
        yield f"{path}.{name}" + (signature(function) if inspect.isroutine(function) else "")


def signature(found):
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return "()"
    plain = [
        each.replace(annotation=each.empty, default=each.default if is_plain(each) else "...")
        for each in parameters
    ]
    return str(inspect.Signature(plain))


def is_plain(parameter):
    return isinstance(parameter.default, type(None) | bool | int | float | str | tuple | type)


def test_the_public_names_and_their_parameters_are_those_that_are_listed():
    assert list(public_api()) == LISTED.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    LISTED.write_text("\n".join(public_api()) + "\n", encoding="utf-8")
