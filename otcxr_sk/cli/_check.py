"""`otcxr-sk check`."""

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from otcxr_sk._files import open_file
from otcxr_sk._quote import plain_text
from otcxr_sk.cli._data import column, find_images, is_npz, only, read_images, read_labelled
from otcxr_sk.cli._options import data_argument, examples, json_option, labels_option

if TYPE_CHECKING:
    from otcxr_sk.datasets import NearDuplicates

# Of each kind of problem; --json lists all.
_SHOWN = 20
_VIEWS = ("modality", "view_position", "body_part", "photometric", "presentation_intent")


class _Study(NamedTuple):
    """What is checked: images, and of each its patient and part of the split, or None."""

    X: Any
    groups: Any
    split: Any

    def name(self, row: int) -> str:
        return f"row {row}" if not isinstance(self.X, list) else f"row {row}, {self.X[row]}"


@click.command(
    short_help="Look for unreadable files, duplicates and leakage.",
    epilog=examples(
        "otcxr-sk check images/",
        "otcxr-sk check train/ test/        # is anything of one in the other?",
        "otcxr-sk check images/ --labels labels.csv --split part --json > problems.json",
    ),
)
@data_argument
@labels_option
@click.option("--split", metavar="COLUMN", help="Column of the table with train, test, ...")
@click.option("--jobs", type=click.IntRange(1), default=1, help="Processes that read images.")
@json_option
def check(
    data: tuple[Path, ...], labels: Path | None, split: str | None, jobs: int, as_json: bool
) -> int:
    """Look for what would spoil a study: unreadable files, duplicates, leakage, odd views.

    DATA are folders, image files, one .npz, or - for paths on stdin. Several of them, without
    --labels, are parts of a split. Patients are those of the table, or of DICOM headers. Cropped,
    shifted or rotated copies are not found.

    Files are named, patients are not. The exit status is 1 if images cannot be read, if two
    patients or parts share an image, or two parts a patient.
    """
    if split and labels is None and len(data) > 1:
        raise click.UsageError("--split needs one DATA with a table")
    from otcxr_sk.datasets import find_near_duplicates
    from otcxr_sk.images import UnusableImageWarning

    study, headers = _read(data, labels, split)
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", UnusableImageWarning)
        found = find_near_duplicates(study.X, study.groups, split=study.split, n_jobs=jobs)
    result: dict[str, Any] = {
        "images": len(study.X),
        "patients": None if study.groups is None else len(set(study.groups.tolist())),
        "parts": None if study.split is None else dict(Counter(study.split.tolist())),
        "unreadable": found.unusable,
        "duplicates": [*_pairs(found, study)],
        "leakage": _leakage(study),
        "views": headers,
        "doubts": _counted([str(one.message) for one in doubts]),
    }
    problems = bool(
        result["unreadable"] or result["leakage"] or any(p["across"] for p in result["duplicates"])
    )
    click.echo(json.dumps(result) if as_json else plain_text("\n".join(_lines(result, study))))
    return int(problems)


def _read(
    data: Sequence[Path], labels: Path | None, split: str | None
) -> tuple[_Study, dict[str, dict[str, int]]]:
    import numpy as np

    if not (labels or split) and is_npz(data):
        X, groups = read_images(data[0])
        return _Study(X, groups, None), {}
    if labels or split or _has_table(data):
        table = read_labelled(only(data, "a table"), labels)
        X = table.images if table.paths is None else table.paths
        headers, _ = _headers(X)
        return _Study(X, table.groups, column(table, split) if split else None), headers
    parts = [find_images([one]) for one in data]
    X = [path for part in parts for path in part]
    headers, patients = _headers(X)
    names = [str(one) for one in data]
    several = len(data) > 1 and all(one.is_dir() for one in data)
    where = np.repeat(names, [len(part) for part in parts]) if several else None
    return _Study(X, patients, where), headers


def _has_table(data: Sequence[Path]) -> bool:
    return len(data) == 1 and (data[0] / "labels.csv").is_file()


def _headers(X: Any) -> tuple[dict[str, dict[str, int]], Any]:
    """Count what DICOM headers say, and return the patients if all of the files tell them."""
    import numpy as np

    from otcxr_sk.images import ImageReadWarning, read_dicom_table
    from otcxr_sk.images.dicom import looks_like_dicom

    paths = [path for path in X if _starts(path, looks_like_dicom)] if isinstance(X, list) else []
    if not paths:
        return {}, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageReadWarning)
        table = read_dicom_table(paths)
    counts = {
        name: dict(Counter(value or "not said" for value in table[name]).most_common())
        for name in _VIEWS
    }
    known = len(paths) == len(X) and None not in table["patient_id"]
    return counts, np.array(table["patient_id"]) if known else None


def _starts(path: str, looks: Any) -> bool:
    try:
        with open_file(path) as file:
            return bool(looks(file.read(132)))
    except OSError:
        return False


def _pairs(found: "NearDuplicates", study: _Study) -> Iterator[dict[str, Any]]:
    groups, parts = found.across_groups, found.across_splits
    for number, ((first, second), distance, exact) in enumerate(
        zip(found.pairs.tolist(), found.distance.tolist(), found.exact.tolist(), strict=True)
    ):
        of_two = groups is None or bool(groups[number])
        in_two = parts is not None and bool(parts[number])
        yield {
            "rows": [first, second],
            "files": [study.X[first], study.X[second]] if isinstance(study.X, list) else None,
            "bits": distance,
            "identical": exact,
            "across_patients": None if groups is None else of_two,
            "across_parts": None if parts is None else in_two,
            "across": of_two or in_two,
        }


def _leakage(study: _Study) -> list[dict[str, Any]]:
    """Count patients in two parts, without their names."""
    if study.groups is None or study.split is None:
        return []
    import numpy as np

    from otcxr_sk.datasets import LeakageError, check_leakage

    try:
        check_leakage(study.groups, study.split)
    except LeakageError as error:
        by_parts: dict[tuple[str, str], list[str]] = {}
        for one in error.shared:
            by_parts.setdefault(one["parts"], []).append(one["patient"])
        return [
            {
                "parts": list(parts),
                "patients": len(patients),
                "rows": np.flatnonzero(np.isin(study.groups, patients)).tolist(),
            }
            for parts, patients in by_parts.items()
        ]
    return []


def _counted(messages: Sequence[str]) -> dict[str, int]:
    """Count warnings that differ in the name of the file alone."""
    return dict(Counter(one.partition("': ")[2] or one for one in messages).most_common())


def _lines(result: Mapping[str, Any], study: _Study) -> Iterator[str]:
    patients = result["patients"]
    yield f"{result['images']} images" + (
        "; patients are not known, so leakage by patient is not: pass --labels"
        if patients is None
        else f" of {patients} patients"
    )
    if result["parts"]:
        yield "parts: " + ", ".join(f"{name} {count}" for name, count in result["parts"].items())
    yield from _listed(
        "unreadable: ", [f"{study.name(p['row'])}: {p['reason']}" for p in result["unreadable"]]
    )
    yield from _listed("duplicates: ", [_pair(pair, study) for pair in result["duplicates"]])
    if study.split is not None and patients is not None:
        yield from _listed(
            "leakage: ",
            [
                f"{one['patients']} patients are in both {one['parts'][0]} and {one['parts'][1]}, "
                f"with {len(one['rows'])} images; split by patient"
                for one in result["leakage"]
            ],
        )
    for name, counts in result["views"].items():
        yield f"{name.replace('_', ' ')}: " + ", ".join(f"{k} {v}" for k, v in counts.items())
    for text, count in result["doubts"].items():
        yield f"to look at: {count} images: {text}"


def _listed(title: str, lines: Sequence[str]) -> Iterator[str]:
    yield title + (str(len(lines)) if lines else "none")
    yield from (f"  {line}" for line in lines[:_SHOWN])
    if len(lines) > _SHOWN:
        yield f"  and {len(lines) - _SHOWN} more; --json lists all"


def _pair(pair: Mapping[str, Any], study: _Study) -> str:
    first, second = (study.name(row) for row in pair["rows"])
    how = "identical" if pair["identical"] else f"{pair['bits']} of 255 bits differ"
    where = [f"of two {what}" for what in ("patients", "parts") if pair[f"across_{what}"]] or [
        "of one patient"
    ] * (pair["across_patients"] is False)
    return f"{first} = {second} ({', '.join([how, *where])})"
