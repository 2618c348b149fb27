"""Labelled pictures of one's own: an .npz or a folder, and a CSV with patients and labels."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from ._tables import Table, need, read_table

_MAX_CLASSES = 20
_MAX_LENGTH = 64  # of a class name; longer values are free text
_BLANK = ("", "nan", "na")


def load_labelled(
    data: str | os.PathLike[str], labels: str | os.PathLike[str] | None = None
) -> Bunch:
    r"""Read labelled pictures with their patients, ready for a split by patient.

    Parameters
    ----------
    data : path
        An ``.npz`` with `images` of shape (n, h, w), uint8, uint16 or float, and optionally
        `labels` (n,) or (n, k), `label_names`, `patient_ids` and `file_names`; or a folder of
        pictures.
    labels : path, optional
        A CSV with a header and one row for each picture. Its column `path` is relative to the
        folder; for an .npz with `file_names` it finds the picture, and otherwise the rows are in
        the order of the pictures. `patient_id` is needed unless the .npz has `patient_ids`.
        Every further column with 2 to 20 values is a target; blanks are unknown. Takes the place
        of labels in the .npz. By default ``labels.csv`` in the folder, or the labels in the .npz.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X : ndarray of shape (n, h, w) or list of str
            What to give to an estimator: `images`, or else `paths`.
        images : ndarray of shape (n, h, w) or None
            Pictures as they are stored; None for a folder.
        paths : list of str or None
            Files in the order of the rows; None for an .npz.
        labels : ndarray of float64, shape (n, k)
            0 or 1, NaN where unknown. Columns of 0 and 1 stay as they are; a column of two
            classes becomes one target, the class that sorts last against the other; one of more
            classes becomes a target for each, against the rest.
        label_names : list of str
            ``"column"`` or ``"column=class"``.
        groups : ndarray of shape (n,)
            Patient of each picture.
        ignored : dict of str to str
            Columns that are no targets, and why.

    Raises
    ------
    FileNotFoundError
        If `data`, `labels` or a picture is missing.
    ValueError
        If patients are unknown (a patient could be in training and in test), or rows and
        pictures do not belong together: the message names the file, row or column.

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
    source = Path(data)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    if source.is_dir():
        return _from_folder(source, source / "labels.csv" if labels is None else Path(labels))
    if source.suffix.lower() != ".npz":
        raise ValueError(f"{source} is neither a folder nor an .npz file")
    return _from_npz(source, None if labels is None else Path(labels))


def _from_folder(folder: Path, csv_file: Path) -> Bunch:
    if not csv_file.exists():
        raise FileNotFoundError(
            f"{csv_file} does not exist: a folder needs a CSV with the columns path, patient_id "
            "and labels"
        )
    table, lines = read_table(csv_file)
    need(table, "path", csv_file)
    need(table, "patient_id", csv_file, "without patients one could be in training and in test")
    paths: list[str] = []
    seen: dict[str, int] = {}
    for name, line in zip(table["path"], lines, strict=True):
        tidy = os.path.normpath(name) if name else ""
        where = f"{csv_file}, row {line}: path {name!r}"
        if not tidy:
            raise ValueError(f"{csv_file}, row {line}: path is empty")
        if os.path.isabs(tidy) or tidy.split(os.sep)[0] == os.pardir:
            raise ValueError(f"{where} leads out of the folder {folder}; write it relative to it")
        if tidy in seen:
            raise ValueError(f"{where} is there already, in row {seen[tidy]}")
        if not (folder / tidy).is_file():
            raise FileNotFoundError(f"{where} is not a file in {folder}")
        seen[tidy] = line
        paths.append(str(folder / tidy))
    groups = _patients(table, lines, csv_file)
    return Bunch(
        X=paths, images=None, paths=paths, groups=groups, **_targets(table, len(paths), csv_file)
    )


def _from_npz(file: Path, csv_file: Path | None) -> Bunch:
    stored = _read_npz(file)
    images = stored["images"]
    n = len(images)
    if csv_file is not None:
        if not csv_file.exists():
            raise FileNotFoundError(f"{csv_file} does not exist")
        table, lines = read_table(csv_file)
        if len(lines) != n:
            raise ValueError(f"{csv_file} has {len(lines)} rows, but {file} has {n} images")
        if "path" in table and "file_names" in stored:
            order = _match(
                table["path"], lines, stored["file_names"].astype(str).tolist(), csv_file
            )
            table = {name: [values[i] for i in order] for name, values in table.items()}
            lines = [lines[i] for i in order]
        origin = csv_file
    else:
        table, lines, origin = _table_of(stored, file), [], file
    if "patient_id" in table:
        groups = _patients(table, lines, origin)
    elif "patient_ids" in stored:
        groups = stored["patient_ids"]
    else:
        raise ValueError(
            f"no patients: {file} has no patient_ids and "
            + (f"{csv_file} no column patient_id" if csv_file else "no CSV is given")
            + "; without them a patient could be in training and in test"
        )
    return Bunch(X=images, images=images, paths=None, groups=groups, **_targets(table, n, origin))


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    wanted = ("images", "labels", "label_names", "patient_ids", "file_names")
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            keys = list(archive.keys())
            stored = {key: archive[key] for key in wanted if key in keys}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} cannot be read as an .npz of plain arrays: {error}") from error
    if "images" not in stored:
        raise ValueError(f"{file} has no array 'images'; it has {', '.join(keys) or 'none'}")
    images = stored["images"]
    if images.ndim != 3 or 0 in images.shape:
        raise ValueError(f"{file}: images must have shape (n, h, w), got {images.shape}")
    if images.dtype not in (np.uint8, np.uint16) and images.dtype.kind != "f":
        raise ValueError(f"{file}: images must be uint8, uint16 or float, got {images.dtype}")
    if images.dtype.kind == "f" and not (finite := np.isfinite(images).all(axis=(1, 2))).all():
        raise ValueError(f"{file}: image {np.argmin(finite)} has NaN or infinite values")
    for key in ("labels", "patient_ids", "file_names"):
        if key in stored and (stored[key].ndim == 0 or len(stored[key]) != len(images)):
            shape = stored[key].shape
            raise ValueError(f"{file}: {key} has shape {shape} for {len(images)} images")
    if "patient_ids" in stored and stored["patient_ids"].ndim != 1:
        raise ValueError(f"{file}: patient_ids must have shape ({len(images)},)")
    return stored


def _table_of(stored: dict[str, np.ndarray], file: Path) -> Table:
    """Labels of an .npz as columns of text, as a CSV would have them."""
    if "labels" not in stored:
        return {}
    labels = stored["labels"]
    names = [str(name) for name in stored.get("label_names", np.array([])).ravel()]
    if labels.ndim == 1:
        values = _as_text(labels)
        if names and labels.dtype.kind in "iu" and 0 <= labels.min() <= labels.max() < len(names):
            values = [names[i] for i in labels]
        return {"label": values}
    if labels.ndim != 2:
        raise ValueError(f"{file}: labels must have shape (n,) or (n, k), got {labels.shape}")
    names = names or [f"label{i}" for i in range(labels.shape[1])]
    if len(names) != labels.shape[1] or len(set(names)) != len(names):
        raise ValueError(
            f"{file}: {labels.shape[1]} columns of labels need as many different label_names, "
            f"got {names}"
        )
    return {name: _as_text(labels[:, i]) for i, name in enumerate(names)}


def _as_text(values: np.ndarray) -> list[str]:
    if values.dtype.kind in "bf":
        return [f"{value:g}" for value in values.astype(float)]
    return [str(value) for value in values]


def _patients(table: Table, lines: list[int], file: Path) -> np.ndarray:
    for patient, line in zip(table["patient_id"], lines, strict=True):
        if patient.lower() in _BLANK:
            raise ValueError(f"{file}, row {line}: patient_id is empty")
    return np.array(table["patient_id"])


def _match(paths: list[str], lines: list[int], names: list[str], file: Path) -> list[int]:
    """Row of the CSV for each picture: by the whole name, or by its last part."""
    exact = set(paths) >= set(names)
    keys = paths if exact else [path.replace("\\", "/").split("/")[-1] for path in paths]
    rows: dict[str, int] = {}
    for i, key in enumerate(keys):
        if key in rows:
            raise ValueError(
                f"{file}, row {lines[i]}: path {paths[i]!r} names the same picture as row "
                f"{lines[rows[key]]}"
            )
        rows[key] = i
    wanted = names if exact else [name.replace("\\", "/").split("/")[-1] for name in names]
    there = set(wanted)
    for key, i in rows.items():
        if key not in there:
            raise ValueError(f"{file}, row {lines[i]}: path {paths[i]!r} is not in file_names")
    return [rows[key] for key in wanted]


def _targets(table: Table, n: int, file: Path) -> dict[str, object]:
    columns: list[np.ndarray] = []
    names: list[str] = []
    ignored: dict[str, str] = {}
    for name, values in table.items():
        if name in ("path", "patient_id"):
            continue
        known = np.array([value.lower() not in _BLANK for value in values], dtype=bool)
        classes = sorted({value for value, there in zip(values, known, strict=True) if there})
        if (numbers := _zero_one(classes)) is not None:
            as_number = dict(zip(classes, numbers, strict=True))
            columns.append(np.array([as_number.get(value, np.nan) for value in values]))
            names.append(name)
            continue
        if reason := _no_target(classes, int(known.sum())):
            ignored[name] = reason
            continue
        text = np.array(values)
        for one in classes[1:] if len(classes) == 2 else classes:
            columns.append(np.where(known, text == one, np.nan))
            names.append(f"{name}={one}")
    if ignored and not names:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in ignored.items())
        raise ValueError(f"{file} has no column that can be a target ({reasons})")
    return {
        "labels": np.stack(columns, axis=1) if columns else np.empty((n, 0)),
        "label_names": names,
        "ignored": ignored,
    }


def _zero_one(classes: list[str]) -> list[float] | None:
    try:
        numbers = [float(one) for one in classes]
    except ValueError:
        return None
    return numbers if set(numbers) == {0.0, 1.0} else None


def _no_target(classes: list[str], count: int) -> str:
    """Why a column is no target; empty if it is one."""
    if len(classes) < 2:
        return f"only one value, {classes[0]!r}" if classes else "no values"
    if max(map(len, classes)) > _MAX_LENGTH:
        return "free text"
    if len(classes) == count > 2:
        return "all values differ"
    if len(classes) > _MAX_CLASSES:
        return f"{len(classes)} values, more than {_MAX_CLASSES}"
    return ""
