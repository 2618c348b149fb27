"""Messages are in the user's words: they pass on nothing that Python or another library said."""

import ast
import importlib
import pkgutil
from pathlib import Path

import otcxr_sk

FOLDER = Path(otcxr_sk.__file__).parent

# These choose among the words of a foreign error.
CHOOSING = {"reason"}

# The errors that these pass on are of this library's own calls, or are for its developers.
PASSED_ON = {
    ("_face.py", "AttributeError"),
    ("cli/_main.py", "OSError"),
    ("estimators/sharing/_model.py", "ValueError, TypeError"),
    ("evaluation/_online.py", "ValueError"),
}


def own_errors():
    """Return the names of the exceptions that this library defines."""
    found = set()
    for module in pkgutil.walk_packages(otcxr_sk.__path__, "otcxr_sk."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, type) and issubclass(value, BaseException):
                found |= {name} if value.__module__.startswith("otcxr_sk") else set()
    return found


def whole_errors(handler):
    """Find where the text of a handler's exception becomes part of a message."""
    for node in ast.walk(handler):
        if isinstance(node, ast.FormattedValue):
            value = node.value
            chosen = isinstance(value, ast.Call) and getattr(value.func, "id", "") in CHOOSING
            if not chosen and any(
                isinstance(one, ast.Name)
                and one.id == handler.name
                # Such as `error.filename`.
                and not isinstance(parents(value).get(one), ast.Attribute)
                for one in ast.walk(value)
            ):
                yield node


def parents(tree):
    return {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}


def handlers():
    for file in sorted(FOLDER.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ExceptHandler) and node.name:
                kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
                yield file.relative_to(FOLDER).as_posix(), [ast.unparse(k) for k in kinds], node


def test_no_message_quotes_an_error_of_python_or_another_library():
    own = own_errors()
    quoting = {
        (file, ", ".join(kinds))
        for file, kinds, handler in handlers()
        if not own.issuperset(kinds) and any(whole_errors(handler))
    }
    assert quoting == PASSED_ON
