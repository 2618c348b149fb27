"""`otcxr-sk check`."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from otcxr_sk._quote import counted
from otcxr_sk.cli import _options as options
from otcxr_sk.cli._data import column, find_images, is_npz, only, read_images, read_labelled

if TYPE_CHECKING:
    from otcxr_sk.datasets import NearDuplicates

# Of each kind of problem, and rows of each leakage; --json lists all.
_SHOWN, _ROWS = 20, 5
_VIEWS = ("modality", "view_position", "body_part", "photometric", "presentation_intent")


class _Study(NamedTuple):
    """What is checked: images, and of each its patient and part of the split, or None."""

    X: Any
    groups: Any = None
    split: Any = None

    def name(self, row: int) -> str:
        return f"row {row}" + (f", {self.X[row]}" if isinstance(self.X, list) else "")


@click.command(
    short_help="Look for unreadable files, duplicates and leakage.",
    epilog=options.examples(
        "otcxr-sk check images/",
        "otcxr-sk check train/ test/        # is anything of one in the other?",
        "otcxr-sk check images/ --labels labels.csv --split part --json > problems.json",
    ),
)
@options.data
@options.labels
@click.option("--split", metavar="COLUMN", help="Column of the table with train, test, ...")
@click.option("--jobs", type=click.IntRange(1), default=1, help="Processes that read images.")
@options.as_json
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

    study, views = _read(data, labels, split)
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", UnusableImageWarning)
        found = find_near_duplicates(study.X, study.groups, split=study.split, n_jobs=jobs)
    # Those that differ in the name of the file alone are counted.
    texts = [str(one.message) for one in doubts]
    result: dict[str, Any] = {
        "images": len(study.X),
        "patients": None if study.groups is None else len(set(study.groups.tolist())),
        "parts": None if study.split is None else dict(Counter(study.split.tolist())),
        "unreadable": found.unusable,
        "duplicates": [*_pairs(found, study)],
        "leakage": _leakage(study),
        "views": views,
        "doubts": _counts(text.partition("': ")[2] or text for text in texts),
    }
    if as_json:
        options.show_json(result)
    else:
        options.show("\n".join(_lines(result, study)))
    shared = any(pair["across"] for pair in result["duplicates"])
    return int(bool(result["unreadable"] or result["leakage"] or shared))


def _read(
    data: Sequence[Path], labels: Path | None, split: str | None
) -> tuple[_Study, dict[str, dict[str, int]]]:
    import numpy as np

    alone = labels is None and split is None
    if alone and is_npz(data):
        return _Study(*read_images(data[0])), {}
    if not alone or (len(data) == 1 and (data[0] / "labels.csv").is_file()):
        table = read_labelled(only(data, "a table"), labels)
        X = table.images if table.paths is None else table.paths
        return _Study(X, table.groups, split and column(table, split)), _headers(X)[0]
    parts = [find_images([one]) for one in data]
    X = [path for part in parts for path in part]
    views, patients = _headers(X)
    several = len(data) > 1 and all(one.is_dir() for one in data)
    where = np.repeat([*map(str, data)], [*map(len, parts)]) if several else None
    return _Study(X, patients, where), views


def _headers(X: Any) -> tuple[dict[str, dict[str, int]], Any]:
    """Count what DICOM headers say, and return the patients if all files tell them."""
    import numpy as np

    from otcxr_sk.images import ImageReadWarning, read_dicom_table

    if not isinstance(X, list):
        return {}, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageReadWarning)
        table = read_dicom_table(X)
    read = [row for row, error in enumerate(table["error"]) if error is None]
    views = {name: _counts(table[name][row] or "not said" for row in read) for name in _VIEWS}
    known = None not in table["patient_id"]
    return views if read else {}, np.array(table["patient_id"]) if known else None


def _counts(texts: Iterator[str]) -> dict[str, int]:
    return dict(Counter(texts).most_common())


def _pairs(found: "NearDuplicates", study: _Study) -> Iterator[dict[str, Any]]:
    for number, (first, second) in enumerate(found.pairs.tolist()):
        patients, parts = (
            None if across is None else bool(across[number])
            for across in (found.across_groups, found.across_splits)
        )
        yield {
            "rows": [first, second],
            "files": [study.X[first], study.X[second]] if isinstance(study.X, list) else None,
            "bits": int(found.distance[number]),
            "identical": bool(found.exact[number]),
            "across_patients": patients,
            "across_parts": parts,
            # Whether two images are of one patient may not be known.
            "across": patients is not False or bool(parts),
        }


def _leakage(study: _Study) -> list[dict[str, Any]]:
    """Count patients in two parts, without their names."""
    if study.groups is None or study.split is None:
        return []
    import numpy as np

    from otcxr_sk.datasets import LeakageError, check_leakage

    patients: dict[tuple[str, str], list[Any]] = {}
    try:
        check_leakage(study.groups, study.split)
    except LeakageError as error:
        for one in error.shared:
            patients.setdefault(one["parts"], []).append(one["patient"])
    return [
        {
            "parts": list(parts),
            "patients": len(shared),
            "rows": np.flatnonzero(np.isin(study.groups, shared)).tolist(),
        }
        for parts, shared in patients.items()
    ]


def _lines(result: Mapping[str, Any], study: _Study) -> Iterator[str]:
    patients = result["patients"]
    yield counted(result["images"], "image") + (
        "; patients are not known, so leakage by patient is not: pass --labels"
        if patients is None
        else f" of {counted(patients, 'patient')}"
    )
    if result["parts"]:
        yield f"parts: {_listed(result['parts'])}"
    unreadable = [f"{study.name(one['row'])}: {one['reason']}" for one in result["unreadable"]]
    yield from _section("unreadable", unreadable)
    yield from _section("duplicates", [_pair(pair, study) for pair in result["duplicates"]])
    if study.split is not None and patients is not None:
        yield from _section("leakage", [_shared(one, study) for one in result["leakage"]])
    for name, counts in result["views"].items():
        yield f"{name.replace('_', ' ')}: {_listed(counts)}"
    for text, count in result["doubts"].items():
        yield f"to look at: {counted(count, 'image')}: {text}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    yield f"{title}: {len(lines) or 'none'}"
    yield from (f"  {line}" for line in lines[:_SHOWN])
    if len(lines) > _SHOWN:
        yield f"  and {len(lines) - _SHOWN} more; --json lists all"


def _pair(pair: Mapping[str, Any], study: _Study) -> str:
    first, second = (study.name(row) for row in pair["rows"])
    how = ["identical" if pair["identical"] else f"{pair['bits']} of 255 bits differ"]
    how += [f"of two {what}" for what in ("patients", "parts") if pair[f"across_{what}"]]
    if len(how) == 1 and pair["across_patients"] is False:
        how.append("of one patient")
    return f"{first} = {second} ({', '.join(how)})"


def _shared(one: Mapping[str, Any], study: _Study) -> str:
    rows = one["rows"]
    named = "; ".join(study.name(row) for row in rows[:_ROWS]) + "; ..." * (len(rows) > _ROWS)
    return (
        f"{counted(one['patients'], 'patient')} in both {one['parts'][0]} and {one['parts'][1]}, "
        f"with {counted(len(rows), 'image')} ({named}); split by patient"
    )
