"""Pickles of weights, checked before PyTorch's unpickler spends time or memory on them.

That unpickler runs no code, but it calls what it knows with any argument, and a few bytes can tell
it to work for hours: ``t = (t, t)``, repeated, is a key that is never hashed, a storage may claim
any size, and keys may be chosen so that each collides with all others. So the commands are first
followed here, without their effects, and must be those that make a state dict.
"""

import re
from collections.abc import Iterator
from pickletools import genops, markobject
from typing import Any, BinaryIO

from otcxr_sk._quote import quoted

# timm's scripts save their options with the weights. PyTorch knows no such class, but this one.
_NAMESPACE = "argparse Namespace"
OPTIONS, PLAIN = b"cargparse\nNamespace\n", b"ccollections\nOrderedDict\n"

MOST_BYTES = 2**22
# The largest networks of timm with their averages and optimizers have some 7,000 tensors.
MOST_COMMANDS, _MOST_CALLS = 200_000, 2**15
# Bytes of text and values, each counted as often as it is found when all is written out.
_LARGEST, _DEEPEST = 2**24, 32
# Integers below never have the same hash.
_HASHED_APART = 2**60

_TEXT = ("BINUNICODE", "SHORT_BINSTRING")
_INTEGERS = ("BININT", "BININT1", "BININT2", "LONG1")
_ATOMS = {*_TEXT, *_INTEGERS, "GLOBAL", "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE"}
_CONTAINERS = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "EMPTY_DICT")
_KEEPING, _FETCHING = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
_CALLING = {"REDUCE", "NEWOBJ", "BINPERSID"}
_ADDING = {
    "APPEND": ("EMPTY_LIST",),
    "APPENDS": ("EMPTY_LIST",),
    "SETITEM": ("EMPTY_DICT", "collections OrderedDict", "collections Counter"),
    "SETITEMS": ("EMPTY_DICT", "collections OrderedDict", "collections Counter"),
    "BUILD": ("collections OrderedDict", _NAMESPACE),
}

_CALLED = {
    _NAMESPACE,
    "collections Counter",
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
}
# These are only named: kinds of storages and of numbers.
_NAMED = re.compile(r"torch(\.storage|\.cuda)? \w+Storage|torch (b?float|complex|u?int|bool)\w*")

TOO_MUCH = "describes more than a state dict has"


class RefusedError(ValueError):
    """A file does something that no file of weights does, which is the argument."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class _Value:
    """What a command makes: its kind, its argument, and what it holds."""

    __slots__ = ("argument", "kind", "parts")

    def __init__(self, kind: str, argument: Any = None, parts: list["_Value"] | None = None):
        self.kind, self.argument, self.parts = kind, argument, parts or []

    def is_key(self) -> bool:
        """Whether it is hashed in a short time, whatever other keys there are."""
        if self.kind in _INTEGERS:
            return abs(self.argument) < _HASHED_APART
        # Few numbers with a fraction have the same hash.
        return self.kind in (*_TEXT, "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE")


def check(file: BinaryIO, most: int, commands: Iterator[int]) -> list[int]:
    """Read a pickle to its end, without making any of what it describes.

    Parameters
    ----------
    file : binary file
        In memory; left at the end of the pickle.
    most : int
        Bytes that there are for all storages.
    commands : iterator
        One is taken for each command; a file has so many.

    Returns
    -------
    options : list of int
        The places of `OPTIONS`.

    Raises
    ------
    RefusedError
        It asks for anything but tensors and plain containers, or describes too much.
    Exception
        Of any kind: it is damaged.
    """
    options: list[int] = []
    stack: list[_Value] = []
    marks: list[int] = []
    memo: dict[Any, _Value] = {}
    storages: set[Any] = set()
    calls = stored = 0
    for count, (opcode, argument, place) in enumerate(genops(file)):
        name, before, taken = opcode.name, opcode.stack_before, []
        if before and markobject in before:
            before = before[: before.index(markobject)]
            start = marks.pop()
            taken = stack[start:]
            del stack[start:]
        start = len(stack) - len(before)
        if start < (marks[-1] if marks else 0):
            raise ValueError
        if name == "STOP":
            _measure(stack)
            return options
        if name == "MARK":
            marks.append(start)
        elif name in _KEEPING:
            memo[argument] = stack[-1]
        elif name in _FETCHING:
            stack.append(memo[argument])
        elif name != "PROTO" or count:
            taken = stack[start:] + taken
            del stack[start:]
            made = _made(name, argument, taken)
            stack.append(made)
            calls += name in _CALLING
            if name == "BINPERSID" and made.parts[2].argument not in storages:
                storages.add(made.parts[2].argument)
                stored += made.parts[4].argument
            if argument == _NAMESPACE and name == "GLOBAL":
                options.append(place or 0)
        if next(commands, None) is None or calls > _MOST_CALLS or stored > most:
            raise RefusedError(TOO_MUCH)
    raise ValueError


def _made(name: str, argument: Any, taken: list[_Value]) -> _Value:
    """Return what a command leaves on the stack for what it has taken from there."""
    if name == "GLOBAL" and argument not in _CALLED and not _NAMED.fullmatch(argument):
        raise RefusedError(
            f"asks for {quoted(argument.replace(' ', '.'))[1:-1]}, which is not a weight"
        )
    if name in _ATOMS:
        return _Value(name, argument)
    if name in _CONTAINERS:
        return _Value(name, parts=taken)
    if name in ("REDUCE", "NEWOBJ"):
        called, arguments = taken
        if called.kind != "GLOBAL" or called.argument not in _CALLED:
            raise ValueError
        if called.argument.startswith("collections ") and not _is_keyed(arguments):
            raise ValueError
        return _Value(called.argument, parts=[arguments])
    if name == "BINPERSID":
        return _Value(name, parts=_storage(*taken))
    target, *parts = taken
    if name not in _ADDING or target.kind not in _ADDING[name]:
        raise ValueError
    if name == "BUILD" and parts[0].kind != "EMPTY_DICT":
        raise ValueError
    if name.startswith("SETITEM") and not all(key.is_key() for key in parts[::2]):
        raise RefusedError("has a key that is neither text nor a number")
    target.parts += parts
    return target


def _is_keyed(arguments: _Value) -> bool:
    """Whether a dictionary is made of nothing, of another one, or of pairs."""
    if len(arguments.parts) != 1:
        return not arguments.parts
    content = arguments.parts[0]
    return content.kind == "EMPTY_DICT" or (
        content.kind == "EMPTY_LIST"
        and all(pair.parts and pair.parts[0].is_key() for pair in content.parts)
    )


def _storage(saved: _Value) -> list[_Value]:
    """Return the parts of the name of a storage: its type, key, device, length and, once, view."""
    kinds = [part.kind for part in saved.parts]
    if (
        len(kinds) not in (5, 6)
        or kinds[1] != "GLOBAL"
        or any(kind not in _TEXT for kind in (kinds[0], kinds[2], kinds[3]))
        or kinds[4] not in _INTEGERS
        or saved.parts[4].argument < 0
    ):
        raise ValueError
    return saved.parts


def _measure(stack: list[_Value]) -> None:
    """Refuse what would be too large or too deep if shared parts were written out."""
    known: dict[_Value, tuple[int, int]] = {}
    todo, entered = [_Value("TUPLE", parts=stack)], set()
    while todo:
        value = todo[-1]
        ahead = [part for part in value.parts if part.parts and part not in known]
        if ahead and value in entered:
            raise RefusedError("holds something that holds itself")
        if ahead:
            entered.add(value)
            todo += ahead
            continue
        todo.pop()
        size = depth = 1
        for part in value.parts:
            text = len(part.argument) if isinstance(part.argument, str) else 0
            inner, levels = known.get(part, (1, 1))
            size += inner + text
            depth = max(depth, 1 + levels)
        if size > _LARGEST or depth > _DEEPEST:
            raise RefusedError(TOO_MUCH)
        known[value] = size, depth
