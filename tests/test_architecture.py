"""The order of the rooms, held by reading the imports."""

import ast
import os
import subprocess
import sys
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
MAX_LINES = 400


def parts(file):
    return file.relative_to(PACKAGE).with_suffix("").parts


def name(file):
    return "/".join(parts(file))


def imports(file):
    """Dotted names of all that a file imports, wherever in it, relative ones resolved."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = ["otcxr_sk", *parts(file)[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            yield ".".join(module)
            if module == ["otcxr_sk"]:
                yield from (f"otcxr_sk.{alias.name}" for alias in node.names)


def users(library):
    return {
        name(file)
        for file in FILES
        if any(found.split(".")[0] == library for found in imports(file))
    }


def test_every_file_is_in_a_room():
    assert {parts(file)[0] for file in FILES} == {"__init__", *ROOMS}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_room_imports_only_from_rooms_above_it(file):
    room = parts(file)[0]
    if room == "__init__":
        return
    used = {found.split(".")[1] for found in imports(file) if found.startswith("otcxr_sk.")}
    # Public names are used by the command line alone: they come from rooms below all others.
    below = (used & set(ROOMS[ROOMS.index(room) + 1 :])) | (
        used & set(otcxr_sk.__all__) - {"__version__"} if room != "cli" else set()
    )
    assert not below


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("ot", {"method/transport"}),
        ("lightning_fabric", {"training/trainer"}),
        ("lightning", set()),
    ],
)
def test_a_library_is_used_in_one_place(library, allowed):
    assert users(library) == allowed


def test_scikit_learn_stays_out_of_images_method_and_training():
    free = {file.split("/")[0] for file in users("sklearn")}
    assert free <= {"datasets", "estimators", "evaluation", "plotting", "cli"}


def test_matplotlib_is_imported_inside_plotting_only():
    assert {file.split("/")[0] for file in users("matplotlib")} <= {"plotting"}
    script = "import sys, otcxr_sk.plotting; print(*sys.modules)"
    assert not {"matplotlib"} & loaded_by(script)


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_by("import sys, otcxr_sk; print(*sys.modules)")
    assert not {"torch", "torchvision", "timm", "ot", "matplotlib", "sklearn", "scipy"} & loaded


def loaded_by(script):
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return {module.split(".")[0] for module in done.stdout.split()}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_file_has_one_job(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("file", [f for f in FILES if name(f) != "cli"], ids=name)
def test_only_the_command_line_prints(file):
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    assert "print" not in {call.func.id for call in calls if isinstance(call.func, ast.Name)}
