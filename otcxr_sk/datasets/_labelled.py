"""The user's own labeled images: an .npz or a folder, and a CSV with patients and labels."""

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from otcxr_sk._columns import check_patients, is_no_id, plain
from otcxr_sk._files import open_file
from otcxr_sk._paths import as_path
from otcxr_sk._quote import counted, listed, quoted
from otcxr_sk.datasets._npz import Npz
from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets._tables import (
    LONGEST_ID,
    Table,
    below,
    check_missing,
    read_table,
    shown,
    unreadable,
)
from otcxr_sk.images import ImageReadError, require_size

_MAX_CLASSES = 20
_MAX_LENGTH = 64  # of a class name; longer values are free text
_NAMED = 5
_MAX_TARGETS, _MAX_COLUMNS = 1000, 10_000
# Bytes of images and of the other arrays that a small .npz may hold, and per byte of a larger one.
_IMAGES, _PER_BYTE = 2**26, 32
_OTHERS, _PER_VALUE = 2**23, 64
_BLANK = ("", "nan", "na", "n/a", "#n/a", "<na>", "nat", "null")
_WHY = "without patient IDs, a patient could be in both training and test"


def load_labelled(
    data: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    *,
    targets: Sequence[str] | None = None,
    missing: str = "raise",
) -> Radiographs:
    r"""Read your own labeled images with their patients, ready to be split by patient.

    Parameters
    ----------
    data : path
        An ``.npz`` with `images` of shape (n, h, w), uint8, uint16 or float, and optionally
        `labels` (n,) or (n, k), `label_names`, `patient_ids` and `file_names`; or a folder of
        images.
    labels : path, optional
        A CSV with a header and one row per image. Its column `path` is relative to the folder; for
        an .npz with `file_names`, it identifies the image; otherwise the rows are in the order of
        the images. `patient_id` is required unless the .npz has `patient_ids`. Every other column
        with 2 to 20 distinct values is a target, unless it has more than two and all differ, or one
        is longer than 64 characters; blanks are unknown. Overrides labels in the .npz.
        By default, ``labels.csv`` in the folder, or the labels in the .npz.
    targets : sequence of str, default=None
        Columns that are targets, if not all that can be: sex or view, say, are none. What the
        others hold is in `table`.
    missing : {"raise", "drop"}, default="raise"
        Whether images that the CSV names but the folder lacks raise an error or are left out.

    Returns
    -------
    data : Radiographs
        Paths in the order of the CSV, or images as stored in the .npz, with

        labels : shape (n, k)
            Columns of 0 and 1 stay as they are. A column of two classes becomes one target: the
            class that sorts last versus the other. One of more classes becomes a target per class:
            that class versus the rest.
        label_names
            ``"column"`` or ``"column=class"``.
        groups
            `patient_id` of the CSV, or else `patient_ids` of the .npz.
        split
            None.
        table
            Columns of the CSV, or the labels in the .npz.
        missing
            `path` of images that were left out.
        ignored : dict of str to str
            Columns that are not targets, and why.

    Raises
    ------
    FileNotFoundError
        If `data`, `labels` or an image does not exist.
    ValueError
        If patients are unknown, since a patient could then be in both training and test, or if
        rows and images do not match, one of `targets` cannot be one, or a table cannot be read.
        The message names the file, row or column.

    See Also
    --------
    check_leakage : Check that a split keeps patients apart.
    find_near_duplicates : Find images that appear more than once.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from otcxr_sk.datasets import load_labelled
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(Path(folder, "x.npz"), images=np.zeros((4, 8, 8), np.uint8))
    ...     _ = Path(folder, "y.csv").write_text(
    ...         "patient_id,subtype\na,virus\na,\nb,bacteria\nb,virus\n"
    ...     )
    ...     data = load_labelled(Path(folder, "x.npz"), Path(folder, "y.csv"))
    >>> data.label_names, data.labels.ravel().tolist()
    (['subtype=virus'], [1.0, nan, 0.0, 1.0])
    """
    check_missing(missing)
    wanted = None if targets is None else _names(targets)
    source = Path(as_path(data))
    if not os.path.exists(source):
        raise FileNotFoundError(f"{shown(source)} does not exist")
    if source.is_dir():
        csv_file = Path(as_path(source / "labels.csv" if labels is None else labels))
        return _from_folder(source, csv_file, wanted, missing)
    if source.suffix.lower() != ".npz":
        raise ValueError(
            f"{shown(source)} is neither a folder nor an .npz; name the folder of the images"
        )
    return _from_npz(source, None if labels is None else Path(as_path(labels)), wanted)


def load_images(file: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the images of an ``.npz``, where no labels are needed.

    Parameters
    ----------
    file : path
        As for `load_labelled`.

    Returns
    -------
    images : ndarray of shape (n, h, w)
        As stored.
    groups : ndarray of shape (n,) or None
        `patient_ids`, None if there are none.

    Raises
    ------
    ValueError
        It cannot be read, or a patient is missing. The message names the file.

    See Also
    --------
    load_labelled : Read them with labels, and refuse what is of unknown patients.
    """
    path = Path(as_path(file))
    stored = _read_npz(path)
    return stored["images"], _stored_patients(stored, path)


def _names(targets: Any) -> list[str]:
    if isinstance(targets, str):
        raise TypeError(f"targets must be several names, got one; pass [{targets!r}]")
    names = list(targets) if isinstance(targets, Iterable) else [targets]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise TypeError(f"targets must be names of columns, got {quoted(wrong[0])}")
    if len(set(names)) < len(names):
        raise ValueError(f"targets names a column twice: {listed(names)}")
    return list(map(str, names))


def _from_folder(
    folder: Path, csv_file: Path, wanted: Sequence[str] | None, missing: str
) -> Radiographs:
    if not os.path.exists(csv_file):
        raise FileNotFoundError(
            f"{shown(csv_file)} does not exist: a folder needs a CSV with the columns path, "
            "patient_id and labels"
        )
    table = read_table(csv_file)
    # Spreadsheet programs write rows of blanks below a table.
    table = table.select(
        row for row, values in enumerate(zip(*table.values(), strict=True)) if any(values)
    )
    if not table.lines:
        raise ValueError(f"{table} has no rows")
    paths: dict[str, int] = {}
    absent: list[int] = []
    if blank := [row for row, name in enumerate(table["path"]) if not name]:
        raise ValueError(f"{table.first(blank)}: path is empty")
    for row, name in enumerate(table["path"]):
        path = below(folder, name)
        if path is None:
            raise ValueError(
                f"{table.at(row)}: path {quoted(name)} is outside {shown(folder)}; make it "
                "relative to that folder"
            )
        if path in paths:
            raise ValueError(
                f"{table.at(row)}: path {quoted(name)} is also in row "
                f"{table.lines[paths[path]]}; remove one of them"
            )
        paths[path] = row
        if not os.path.isfile(path):
            absent.append(row)
    names = [table["path"][row] for row in absent]
    if absent and (missing == "raise" or len(absent) == len(paths)):
        advice = ", or leave such rows out, as missing='drop' does" * (len(absent) < len(paths))
        raise FileNotFoundError(
            f"{table.first(absent)}: path {quoted(names[0])} is not a file in "
            f"{shown(folder)}; correct it{advice}"
        )
    gone = set(absent)
    found = [path for path, row in paths.items() if row not in gone]
    table = table.select(paths[path] for path in found)
    groups = _patients(table)
    labels = _targets(table, wanted)
    return Radiographs(paths=found, groups=groups, table=table, missing=names, **labels)


def _from_npz(file: Path, csv_file: Path | None, wanted: Sequence[str] | None) -> Radiographs:
    stored = _read_npz(file)
    n = len(stored["images"])
    if csv_file is None:
        table = Table(file, _columns(stored, file), range(n))
    else:
        table = read_table(csv_file)
        if len(table.lines) != n:
            raise ValueError(
                f"{table} has {counted(len(table.lines), 'row')}, but {shown(file)} has "
                f"{counted(n, 'image')}"
            )
        if "path" in table and "file_names" in stored:
            table = table.select(_match(table, _as_text(stored["file_names"])))
    groups = _patients(table) if "patient_id" in table else _stored_patients(stored, file)
    if groups is None:
        raise ValueError(
            f"no patients: {shown(file)} has no patient_ids, and "
            + (f"{table} has no column patient_id" if csv_file else "no CSV was passed")
            + f"; {_WHY}"
        )
    labels = _targets(table, wanted)
    return Radiographs(images=stored["images"], groups=groups, table=table, **labels)


def _stored_patients(stored: dict[str, np.ndarray], file: Path) -> np.ndarray | None:
    if "patient_ids" not in stored:
        return None
    return check_patients(
        stored["patient_ids"], len(stored["images"]), f"{shown(file)}, patient_ids"
    )


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    try:
        with open_file(file) as opened:
            size = os.fstat(opened.fileno()).st_size
            archive = Npz(opened, shown(file))
            if "images" not in archive.names:
                raise ValueError(
                    f"{shown(file)} has no array 'images'; it has {listed(archive.names) or 'none'}"
                )
            stored = {"images": archive.read("images", max(_IMAGES, _PER_BYTE * size))}
            for key in ("labels", "label_names", "patient_ids", "file_names"):
                if key in archive.names:
                    most = max(_OTHERS, _PER_VALUE * size)
                    stored[key] = archive.read(key, most, _PER_VALUE)
    except OSError as error:
        raise unreadable(file, error) from error
    images, name = stored["images"], shown(file)
    if images.ndim != 3 or 0 in images.shape:
        raise ValueError(f"{name}: images must have shape (n, h, w), got {images.shape}")
    if images.dtype.kind != "f" and (images.dtype.kind != "u" or images.dtype.itemsize > 2):
        raise ValueError(f"{name}: images must be uint8, uint16 or float, got {images.dtype}")
    try:
        require_size(*images.shape[1:])
    except ImageReadError as error:
        raise ValueError(f"{name}: {error}") from error
    for key in ("labels", "patient_ids", "file_names"):
        if key in stored and (shape := stored[key].shape)[:1] != images.shape[:1]:
            raise ValueError(f"{name}: {key} has shape {shape} for {counted(len(images), 'image')}")
    for key in ("patient_ids", "file_names"):
        if key in stored and stored[key].ndim != 1:
            raise ValueError(f"{name}: {key} must have shape ({len(images)},)")
    return stored


def _columns(stored: dict[str, np.ndarray], file: Path) -> dict[str, list[str]]:
    """Convert the labels of an .npz to columns of text, as in a CSV."""
    if "labels" not in stored:
        return {}
    labels = stored["labels"]
    names = _as_text(stored.get("label_names", np.array([], dtype=str)).ravel())
    if labels.ndim == 1:
        values = _as_text(labels)
        if names and labels.dtype.kind in "iu" and 0 <= labels.min() <= labels.max() < len(names):
            values = [names[i] for i in labels]
        return {"label": values}
    if labels.ndim != 2 or labels.shape[1] > _MAX_COLUMNS:
        raise ValueError(
            f"{shown(file)}: labels must have shape (n,) or (n, k), k at most {_MAX_COLUMNS}, got "
            f"{labels.shape}"
        )
    names = names or [f"label{i}" for i in range(labels.shape[1])]
    if len(names) != labels.shape[1] or len(set(names)) != len(names):
        raise ValueError(
            f"{shown(file)}: for {counted(labels.shape[1], 'column')} of labels, label_names must "
            f"be as many, all different, got {listed(names)}"
        )
    return {name: _as_text(column) for name, column in zip(names, labels.T, strict=True)}


def _as_text(values: np.ndarray) -> list[str]:
    if values.dtype.kind == "b":
        values = values.astype(int)
    if values.dtype.kind == "f":
        return [np.format_float_positional(value, trim="-") for value in values]
    return ["" if value is None else str(value) for value in plain("values", values)]


def _patients(table: Table) -> np.ndarray:
    if "patient_id" not in table:
        raise ValueError(
            f"{table} has no column 'patient_id'; it has {listed(table)}: add or rename one, since "
            f"{_WHY}"
        )
    patients = table["patient_id"]
    if blank := [row for row, patient in enumerate(patients) if is_no_id(patient)]:
        raise ValueError(
            f"{table.first(blank)}: patient_id is empty; leave such images out, or give each an id "
            "of its own if no other image is of that patient"
        )
    if long := [row for row, patient in enumerate(patients) if len(patient) > LONGEST_ID]:
        raise ValueError(
            f"{table.first(long)}: patient_id has more than {LONGEST_ID} characters; shorten it"
        )
    return np.array(patients)


def _match(table: Table, names: list[str]) -> list[int]:
    """Find the row of the CSV for each image by its whole name, or else by its last part."""
    paths = table["path"]
    keys, wanted = paths, names
    if not set(names) <= set(paths):
        keys, wanted = ([re.split(r"[/\\]", one)[-1] for one in some] for some in (paths, names))
    row_of: dict[str, int] = {}
    there = set(wanted)
    for row, key in enumerate(keys):
        if key not in there:
            raise ValueError(f"{table.at(row)}: path {quoted(paths[row])} is not in file_names")
        if key in row_of:
            raise ValueError(
                f"{table.at(row)}: path {quoted(paths[row])} names the same image as row "
                f"{table.lines[row_of[key]]}"
            )
        row_of[key] = row
    return [row_of[key] for key in wanted]


def _targets(table: Table, wanted: Sequence[str] | None) -> dict[str, Any]:
    columns: list[np.ndarray] = []
    names: list[str] = []
    ignored: dict[str, str] = {}
    candidates = [name for name in table if name not in ("path", "patient_id")]
    if wanted is not None:
        ignored = {name: "not one of targets" for name in candidates if name not in wanted}
    for name in candidates if wanted is None else wanted:
        texts = table[name]
        if name not in candidates:
            raise ValueError(f"{table}: column {quoted(name)} cannot be a target: it names rows")
        same = _same_numbers(set(texts))
        # Not of NumPy's text, which gives each value the space of the longest.
        values = np.array(
            ["" if value.lower() in _BLANK else same[value] for value in texts], dtype=object
        )
        known = values != ""
        classes = sorted({*values[known].tolist()})
        if _are_zero_one(classes):
            columns.append(np.array([float(value or "nan") for value in values]))
            names.append(name)
        elif why := _no_target(classes, int(known.sum())):
            if wanted is not None:
                raise ValueError(f"{table}: column {quoted(name)} cannot be a target: {why}")
            ignored[name] = why
        else:
            for one in classes[1:] if len(classes) == 2 else classes:
                columns.append(np.where(known, values == one, np.nan))
                names.append(f"{name}={one}")
        if len(names) > _MAX_TARGETS:
            raise ValueError(
                f"{table} has more than {_MAX_TARGETS} targets; remove the columns that are none"
            )
    if ignored and not names and wanted is None:
        reasons = [f"{quoted(name)}: {why}" for name, why in ignored.items()]
        more = "; ..." if len(reasons) > _NAMED else ""
        raise ValueError(
            f"{table} has no column that can be a target ({'; '.join(reasons[:_NAMED])}{more}); "
            f"add one with 2 to {_MAX_CLASSES} values"
        )
    labels = np.stack(columns, axis=1) if columns else np.empty((len(table.lines), 0))
    return {"labels": labels, "label_names": names, "ignored": ignored}


def _same_numbers(texts: set[str]) -> dict[str, str]:
    """Map each text to the shortest that is the same number: "2.0" to "2"."""
    number_of = {}
    for text in texts:
        with suppress(ValueError):
            number_of[text] = float(text)
    shortest: dict[float, str] = {}
    for text in sorted(number_of, key=lambda text: (len(text), text)):
        shortest.setdefault(number_of[text], text)
    return {text: shortest[number_of[text]] if text in number_of else text for text in texts}


def _are_zero_one(classes: list[str]) -> bool:
    try:
        return {float(one) for one in classes} == {0.0, 1.0}
    except ValueError:
        return False


def _no_target(classes: list[str], count: int) -> str:
    """Return why a column is not a target; "" if it is one."""
    if len(classes) < 2:
        return f"only one value, {quoted(classes[0])}" if classes else "no values"
    if max(map(len, classes)) > _MAX_LENGTH:
        return "free text"
    if len(classes) == count > 2:
        return "all values differ"
    if len(classes) > _MAX_CLASSES:
        return f"{len(classes)} values, more than {_MAX_CLASSES}"
    return ""
