"""What readers of published data sets share: finding what was downloaded, and what comes back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from ._tables import Table

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")
_NAMED = 3
# What macOS adds to archives is no part of them.
_MAC = "__MACOSX"


class PatientsUnknownWarning(UserWarning):
    """A data set is published without patients: every picture stands for one of its own.

    A patient with several pictures can then be in training and in test, unnoticed.
    """


class Pictures(NamedTuple):
    """Pictures in the order of the rows that name them, and the names of those not there."""

    rows: list[int]
    paths: list[str]
    missing: list[str]


def open_folder(folder: str | os.PathLike[str], source: str) -> Path:
    """Path of a folder that is there; FileNotFoundError says what to download into it."""
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder; download {source}")
    return path


def look_for(folder: Path, *names: str) -> Path | None:
    """First of some files or folders that is there, in the folder itself or one level below."""
    for name in names:
        if (folder / name).exists():
            return folder / name
        found = [path for path in sorted(folder.glob(f"*/{name}")) if _MAC not in path.parts]
        if len(found) > 1:
            raise ValueError(f"{found[0]} and {found[1]} are both there; give a folder with one")
        if found:
            return found[0]
    return None


def find(folder: Path, source: str, *names: str) -> Path:
    """Find as `look_for` does; FileNotFoundError says what to download."""
    found = look_for(folder, *names)
    if found is None:
        raise FileNotFoundError(
            f"{folder} has no {' or '.join(names)}; download it: {source}{_hint(folder)}"
        )
    return found


def files_below(folder: Path, *suffixes: str) -> Iterable[Path]:
    """Files with one of the suffixes, in any folder below, in the order of their names."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        # Pictures are often on another disk, behind a link; a link may lead back up.
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name != _MAC)
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("._"):
                yield Path(parent, name)


def by_key(files: Iterable[Path], key: Callable[[Path], str]) -> dict[str, str]:
    """Paths by what names them in a table; ValueError if two have the same name."""
    found: dict[str, str] = {}
    for file in files:
        name = key(file)
        if name in found:
            raise ValueError(
                f"{found[name]} and {file} are both picture {name!r}; give a folder with one of "
                "them"
            )
        found[name] = str(file)
    return found


def locate(
    names: Sequence[str],
    paths: Iterable[str | None],
    folder: Path,
    source: str,
    missing: str,
) -> Pictures:
    """Rows whose pictures are there; FileNotFoundError if some are not, unless to be dropped."""
    if missing not in ("raise", "drop"):
        raise ValueError(f"missing must be 'raise' or 'drop', got {missing!r}")
    rows, found, absent = [], [], []
    for row, (name, path) in enumerate(zip(names, paths, strict=True)):
        if path is None:
            absent.append(name)
        else:
            rows.append(row)
            found.append(path)
    if absent and (missing == "raise" or not found):
        advice = ", or pass missing='drop' to go without" if found else ""
        raise FileNotFoundError(
            f"{len(absent)} of {len(names)} pictures are not in {folder}, "
            f"{', '.join(absent[:_NAMED])} among them; download them: {source}{advice}"
            f"{_hint(folder)}"
        )
    return Pictures(rows, found, absent)


def take(table: Table, rows: Sequence[int]) -> Table:
    """Some rows of a table."""
    return {name: [values[row] for row in rows] for name, values in table.items()}


def one_hot(values: Sequence[str], names: Sequence[str], separator: str | None = None) -> Any:
    """Labels (n, k) of 0 and 1 from one name a row, or several with a separator between them."""
    column = {name: i for i, name in enumerate(names)}
    labels = np.zeros((len(values), len(names)))
    for row, value in enumerate(values):
        for name in value.split(separator) if separator else [value]:
            if name in column:
                labels[row, column[name]] = 1
    return labels


def warn_without_patients(name: str, advice: str = "") -> None:
    """Warn that the groups of a data set are its pictures."""
    warnings.warn(
        f"{name} is published without patients, so each picture is a group of its own, and a "
        "patient with several pictures can be in training and in test" + (advice and f"; {advice}"),
        PatientsUnknownWarning,
        stacklevel=3,
    )


def boxes(
    row_of: Mapping[str, int],
    names: Sequence[str],
    corners: NDArray[np.float64],
    missing: Sequence[str],
    file: Path,
    **columns: Sequence[str],
) -> dict[str, NDArray[Any]]:
    """Boxes as columns, with the row of the picture that each lies in."""
    absent = set(missing)
    for name in names:
        if name not in row_of and name not in absent:
            raise ValueError(f"{file} has a box in {name!r}, which is in no other table")
    kept = [i for i, name in enumerate(names) if name in row_of]
    found: dict[str, NDArray[Any]] = {"row": np.array([row_of[names[i]] for i in kept], np.intp)}
    for column, values in columns.items():
        found[column] = np.array([values[i] for i in kept], dtype=object)
    for i, side in enumerate(("x_min", "y_min", "x_max", "y_max")):
        found[side] = corners[kept, i]
    return found


def collect(
    pictures: Pictures,
    labels: NDArray[np.float64],
    label_names: Sequence[str],
    groups: Sequence[str] | NDArray[Any],
    split: Sequence[str] | None,
    table: Table,
    **more: Any,
) -> Bunch:
    """Put together what every reader returns; ValueError if a picture has no patient."""
    patients = np.asarray(groups)
    if (unknown := patients == "").any():
        raise ValueError(
            f"{pictures.paths[unknown.argmax()]} has no patient in the table, so that a patient "
            "could be in training and in test; correct it or leave the picture out"
        )
    return Bunch(
        X=pictures.paths,
        images=None,
        paths=pictures.paths,
        labels=labels,
        label_names=list(label_names),
        groups=patients,
        split=None if split is None else np.asarray(split),
        table={name: np.array(values, dtype=object) for name, values in table.items()},
        missing=pictures.missing,
        **more,
    )


def _hint(folder: Path) -> str:
    packed = sorted(file.name for file in folder.iterdir() if file.name.endswith(_ARCHIVES))
    return f" (there is {packed[0]}: unpack it first)" if packed else ""
