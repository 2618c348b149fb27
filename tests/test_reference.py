"""The reference lists every public name, and their docstrings are complete."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import otcxr_sk

PAGES = sorted((Path(__file__).resolve().parents[1] / "docs" / "reference").glob("*.md"))
ROOMS = [otcxr_sk, *(getattr(otcxr_sk, name) for name in otcxr_sk.__all__)]
ROOMS = [room for room in ROOMS if isinstance(room, ModuleType)]
INNER = "For extending the library"

# What docstrings of this house do without: an example or a hint in every one, types of parameters
# that are "as in" another function, and words where a type says it all.
NOT_ASKED = {"ES01", "EX01", "SA01", "PR03", "PR04", "PR07", "RT02", "RT03", "RT04"}
# Asked of the parts that only other parts use: a sentence, in form.
OF_PARTS = {"PR01", "RT01", "YD01"}


def listed(page):
    """Yield the full name of all that a page lists, and the heading above it."""
    module = heading = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\.\. module:: ([\w.]+)", line):
            module = found[1]
        elif found := re.match(r"## (.+)", line):
            heading = found[1]
        elif found := re.fullmatch(r"   (\w+)|\.\. py:data:: (\w+)", line):
            yield f"{module}.{found[1] or found[2]}", heading


LISTED = [full for page in PAGES for full, _ in listed(page)]


def of_name(full):
    module, _, name = full.rpartition(".")
    return getattr(import_module(module), name)


def test_no_name_is_listed_twice():
    assert len(LISTED) == len(set(LISTED)) > 100


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_every_public_name_is_in_the_reference(room):
    places = {id(of_name(full)) for full in LISTED}
    public = {name for name in room.__all__ if not isinstance(getattr(room, name), ModuleType)}
    assert not {name for name in public if id(getattr(room, name)) not in places}


def documented(page):
    """Yield names of classes, functions and methods, and whether they are parts of the library."""
    for full, heading in listed(page):
        found = of_name(full)
        if not getattr(found, "__module__", "").startswith("otcxr_sk"):
            continue
        yield full, heading == INNER
        for name in own_methods(found) if inspect.isclass(found) else ():
            yield f"{full}.{name}", heading == INNER


def own_methods(found):
    """Yield the methods of a class and of its bases that no page lists, but for inherited ones."""
    listed = {id(of_name(full)) for full in LISTED} - {id(found)}
    own = [
        base
        for base in found.__mro__
        if base.__module__.startswith("otcxr_sk") and id(base) not in listed
    ]
    others = [base for base in found.__mro__ if base not in own]
    for name, member in {name: one for base in own for name, one in vars(base).items()}.items():
        inherited = any(hasattr(base, name) for base in others)
        if inspect.isfunction(member) and not name.startswith("_") and not inherited:
            yield name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_docstrings_of_a_page_are_complete(page):
    validate = pytest.importorskip("numpydoc.validate").validate
    wrong = []
    for name, is_part in documented(page):
        checked = validate(name)
        allowed = NOT_ASKED | (OF_PARTS if is_part else set())
        if "Attributes\n" in checked["docstring"]:  # of what functions return, not users make
            allowed = allowed | {"PR01"}
        if "Yields\n" in checked["docstring"]:
            allowed = allowed | {"RT01"}
        wrong += [(name, *error) for error in checked["errors"] if error[0] not in allowed]
    assert not wrong
