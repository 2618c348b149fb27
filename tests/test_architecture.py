"""The order of the house, held by reading the imports."""

import ast
import io
import sys
import tokenize
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import otcxr_sk

PACKAGE = Path(otcxr_sk.__file__).parent
ROOMS = [
    "images",
    "datasets",
    "method",
    "training",
    "estimators",
    "evaluation",
    "plotting",
    "cli",
]
FILES = sorted(PACKAGE.rglob("*.py"))
FACES = [file for file in FILES if file.name == "__init__.py"]
MAX_LINES_OF_CODE = 400


def module(file):
    """Dotted name of a file of the package."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name):
    """Room of a module; None for the few modules at the root, which serve all of them."""
    if name == "otcxr_sk.__main__":
        return "cli"
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else None


IMAGES = "otcxr_sk.images."
MODULES = {module(file): file for file in FILES}


def imported(file):
    """Dotted names that a file imports, wherever in it: of modules where they are modules."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module(file)} has a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inner = names & MODULES.keys()
            yield from inner
            if names - inner:
                yield node.module


IMPORTS = {name: set(imported(file)) for name, file in MODULES.items()}


def users(library):
    """Modules that import a library."""
    return {
        name.removeprefix("otcxr_sk.")
        for name, found in IMPORTS.items()
        if library in {one.split(".")[0] for one in found}
    }


def test_every_module_is_in_a_room_or_serves_all_of_them():
    outside = {name for name in MODULES if room(name) is None} - {"otcxr_sk"}
    assert all(name.startswith("otcxr_sk._") for name in outside)


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_a_room_imports_only_from_rooms_above_it(name):
    above = ROOMS[: ROOMS.index(room(name)) + 1]
    used = {one for one in IMPORTS[name] if one.split(".")[0] == "otcxr_sk"}
    # The names of the whole package come from rooms below most others.
    assert "otcxr_sk" not in used or room(name) == "cli"
    assert {room(one) for one in used} <= {None, *above}


def test_files_know_nothing_of_sources_and_sources_nothing_of_batches():
    later = {"dicom": ["sources", "batches"], "rasters": ["sources", "batches"]}
    for folder, others in {**later, "sources": ["batches"]}.items():
        for name in MODULES:
            if name.startswith(f"otcxr_sk.images.{folder}"):
                found = {one.split(".")[2] for one in IMPORTS[name] if one.startswith(IMAGES)}
                assert not found.intersection(others), name


def test_modules_that_serve_all_rooms_import_none_of_them():
    for name in MODULES:
        if room(name) is None and name != "otcxr_sk":
            assert not {room(one) for one in IMPORTS[name]} - {None}


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: found & MODULES.keys() for name, found in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("name", MODULES)
def test_a_private_module_is_imported_from_its_own_folder_only(name):
    for found in IMPORTS[name] & MODULES.keys():
        package, _, last = found.rpartition(".")
        if last.startswith("_") and package != "otcxr_sk":
            assert f"{name}.".startswith(f"{package}."), f"{name} imports {found}"


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_modules_are_private_and_packages_have_a_face(name):
    assert MODULES[name] in FACES or name.rpartition(".")[2].startswith("_")


@pytest.mark.parametrize("face", FACES, ids=module)
def test_a_face_names_what_it_shows(face):
    shown = sys.modules.get(module(face)) or __import__(module(face), fromlist=["*"])
    assert len(set(shown.__all__)) == len(shown.__all__)
    assert all(hasattr(shown, name) for name in shown.__all__)


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("ot", set()),
        ("lightning_fabric", {"training._trainer"}),
        ("lightning", set()),
    ],
)
def test_a_library_is_used_in_one_place(library, allowed):
    assert users(library) == allowed


def test_scikit_learn_stays_out_of_images_method_training_and_the_fitted_encoder():
    # `_ordinary` sets its configuration, in programs that have loaded it.
    free = {"_ordinary", "datasets", "estimators", "evaluation", "plotting", "cli"}
    assert {name.split(".")[0] for name in users("sklearn")} <= free
    assert "estimators._encoder" not in users("sklearn")


def test_matplotlib_is_imported_inside_plotting_only(loaded_by):
    assert {name.split(".")[0] for name in users("matplotlib")} <= {"plotting"}
    assert not {"matplotlib"} & loaded_by("import otcxr_sk.plotting")


@pytest.mark.parametrize(
    "script", ["import otcxr_sk", "import otcxr_sk; otcxr_sk.training.describe"]
)
def test_the_package_loads_nothing_heavy_before_it_is_used(script, loaded_by):
    loaded = loaded_by(script)
    assert not {"torch", "torchvision", "timm", "ot", "matplotlib", "sklearn", "scipy"} & loaded


def lines_of_code(text):
    """Count lines that are neither blank, nor comment, nor docstring."""
    documented = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                documented |= {*range(value.lineno, value.end_lineno + 1)}
    idle = {
        tokenize.COMMENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
        tokenize.INDENT,
        tokenize.NEWLINE,
        tokenize.NL,
    }
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in idle:
            code |= {*range(token.start[0], token.end[0] + 1)}
    return len(code - documented)


def test_docstrings_comments_and_blank_lines_are_no_code():
    text = '"""Doc."""\n\n# Why.\ndef f():\n    """Doc.\n\n    More.\n    """\n    return 1\n'
    assert lines_of_code(text) == 2


@pytest.mark.parametrize("name", MODULES)
def test_a_file_has_one_job(name):
    assert lines_of_code(MODULES[name].read_text(encoding="utf-8")) <= MAX_LINES_OF_CODE


# How else files are opened or written: functions, and methods of modules and paths.
FUNCTIONS = {"open", "load_file", "save_file", "safe_open"}
METHODS = {
    "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "makedirs", "touch", "mkstemp",
    "mkdtemp", "NamedTemporaryFile", "fdopen", "open", "open_memmap", "genfromtxt", "loadtxt",
    "savetxt", "copyfile", "copy2", "move",
}  # fmt: skip
# Members of an archive that is open, streams that nobody reads or gives, and what maps a
# file that was checked.
EXEMPT = {
    "otcxr_sk.datasets._npz": {"self._archive.open"},
    "otcxr_sk.cli._main": {"os.open", "open"},
    "otcxr_sk.cli._decisions": {"Image.open"},
    "otcxr_sk.method._weights": {"load_file"},
}


def opened(file):
    """Calls in a file that may open another one by its path."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in FUNCTIONS or ("." in name and name.split(".")[-1] in METHODS):
                yield name


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"otcxr_sk._files"}))
def test_files_are_opened_and_written_in_one_way(name):
    assert set(opened(MODULES[name])) <= EXEMPT.get(name, set())
