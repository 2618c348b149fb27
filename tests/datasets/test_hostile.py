"""Hostile and damaged tables and archives: a result or an error that names the file, in bounds."""

import json
from pathlib import Path

import numpy as np
import pytest
from bounded import SECONDS, reports_of

from otcxr_sk.datasets import load_kermany, load_labelled, load_montgomery, load_nih

TABLES = (".csv", ".csv.gz", ".txt", ".json", ".npz")
READERS = {
    "nih": "load_nih",
    "vindr": "load_vindr_cxr",
    "vinbigdata": "load_vindr_cxr",
    "rsna": "load_rsna_pneumonia",
    "siim": "load_siim_pneumothorax",
    "chexpert": "load_chexpert",
    "mimic": "load_mimic_cxr",
    "shenzhen": "load_shenzhen",
    "montgomery": "load_montgomery",
}


def labelled(root):
    """Make a folder of images with a table, and an archive."""
    folder, archive = root / "folder", root / "archive"
    for made in (folder, archive):
        made.mkdir()
    for name in "abcd":
        (folder / f"{name}.png").touch()
    (folder / "labels.csv").write_text(
        "path,patient_id,ill,stage\na.png,p,1,I\nb.png,p,0,II\nc.png,q,,III\nd.png,r,1,I\n"
    )
    np.savez(
        archive / "data.npz",
        images=np.zeros((4, 6, 5), np.uint8),
        labels=np.eye(4, 2, dtype=int),
        label_names=["x", "y"],
        patient_ids=["p", "p", "q", "r"],
        file_names=["a", "b", "c", "d"],
    )
    return folder, archive


def medmnist(root):
    folder = root / "home" / "medmnist"
    folder.mkdir(parents=True)
    arrays = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = np.zeros((2, 28, 28), np.uint8)
        arrays[f"{part}_labels"] = np.eye(2, 1, dtype=int)
    np.savez(folder / "pneumoniamnist.npz", **arrays)
    return root / "home"


def read_mutants(published, tmp_path, times):
    """Damage the tables of every data set, one at a time; return name, end and seconds of each."""
    folders = [(published(name).root, reader) for name, reader in READERS.items()]
    folders += [(made, "load_labelled") for made in labelled(tmp_path)]
    folders.append((medmnist(tmp_path), "fetch_medmnist"))
    sets = [
        [str(root), reader, sorted(
            str(file.relative_to(root)) for file in root.rglob("*") if file.name.endswith(TABLES)
        )]
        for root, reader in folders
    ]  # fmt: skip
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    script = Path(__file__).with_name("mutants.py")
    reports = reports_of(script, tmp_path / "sets.json", times)
    assert len(reports) == times * len(sets)
    return reports


def in_bounds(reports):
    for name, end, seconds in reports:
        assert end in ("result", "error"), (name, end)
        assert seconds < SECONDS, (name, seconds)
    ends = [end for _, end, _ in reports]
    # The damage must neither be too light to matter nor always be found at once.
    assert len(ends) / 4 < ends.count("error") < len(ends)


def test_a_damaged_table_is_a_result_or_an_error_in_bounds(published, tmp_path):
    in_bounds(read_mutants(published, tmp_path, 9))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thousands_of_damaged_tables_are_results_or_errors_in_bounds(published, tmp_path):
    in_bounds(read_mutants(published, tmp_path, 300))


ESCAPE = "\x1b[2J\nforged line\x07"


@pytest.mark.parametrize(
    "text",
    [
        f'"{ESCAPE}",patient_id\na.png,p\n',
        f'path,patient_id\n"{ESCAPE}",p\n',
        f'path,patient_id,ill\na.png,p,"{ESCAPE}"\n',
        f'path,patient_id,"{ESCAPE}"\na.png,p\n',
        f'path,"{ESCAPE}","{ESCAPE}"\na.png,p,q\n',
        ",".join(["path", *(f"{ESCAPE[:4]}{column}" for column in range(9000))]) + "\na.png\n",
        f"path,patient_id,{'n' * 100_000}\na.png,p,1\n",
    ],
)
def test_messages_escape_what_tables_hold_and_stay_short(tmp_path, text):
    folder, _ = labelled(tmp_path)
    (folder / "labels.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        load_labelled(folder)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000


def test_messages_escape_the_names_of_files(published, tmp_path):
    loads = {"nih": load_nih, "kermany": load_kermany, "montgomery": load_montgomery}
    for name, load in loads.items():
        each = published(name)
        folder = each.root.rename(tmp_path / f"{ESCAPE}{name}")
        for file in [*folder.rglob("*.csv"), *folder.rglob("*.jpeg"), *folder.rglob("left*/*.png")]:
            file.rename(file.with_name(f"{ESCAPE}{file.name}"))
        with pytest.raises((ValueError, FileNotFoundError)) as raised:
            load(folder)
        assert str(raised.value).isprintable()
