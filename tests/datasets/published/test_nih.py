import csv
import re
from pathlib import Path

import numpy as np
import pytest

from otcxr_sk.datasets import load_nih


def test_labels_patients_and_split(published):
    data = published("nih").load()
    assert [path.rsplit("/", 1)[1] for path in data.paths] == data.table["Image Index"].tolist()
    present = [[data.label_names[i] for i in np.flatnonzero(row)] for row in data.labels]
    assert present == [["Cardiomegaly"], ["Cardiomegaly", "Emphysema"], ["Hernia"], []]
    assert len(data.label_names) == 14
    assert data.groups.tolist() == ["1", "1", "3", "5"]
    assert data.split.tolist() == ["train", "train", "test", "train"]
    assert data.table["View Position"].tolist() == ["PA", "PA", "AP", "PA"]
    assert data.table["Height]"].tolist() == ["2749", "2729", "2048", "2500"]


def test_the_first_example_of_the_docs_runs(published, tmp_path, monkeypatch):
    page = Path(__file__).resolve().parents[3] / "docs" / "guide" / "datasets.md"
    example = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[0]
    published("nih").root.rename(tmp_path / "CXR8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, page.name, "exec"), names)
    assert names["train"].tolist() == [0, 1, 3]


def test_boxes_are_corners_with_the_names_of_the_labels(published):
    boxes = published("nih").load().boxes
    assert boxes["row"].tolist() == [1, 2]
    assert boxes["label"].tolist() == ["Cardiomegaly", "Infiltration"]
    corners = np.stack([boxes[side] for side in ("x_min", "y_min", "x_max", "y_max")], axis=1)
    np.testing.assert_array_equal(corners, [[225.5, 547.25, 312, 627], [10, 20, 40, 60]])


def test_the_first_table_and_other_names_of_the_lists_are_read_and_boxes_are_optional(published):
    nih = published("nih")
    (nih.root / "Data_Entry_2017_v2020.csv").rename(nih.root / "Data_Entry_2017.csv")
    (nih.root / "BBox_List_2017.csv").unlink()
    for name in ("train_val_list", "test_list"):
        (nih.root / f"{name}.txt").rename(nih.root / f"{name}_NIH.txt")
    data = nih.load()
    assert len(data.paths) == 4
    assert data.boxes is None


def test_the_official_lists_are_required(published):
    nih = published("nih")
    (nih.root / "test_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no test_list\.txt or .*; download .*CXR8"):
        nih.load()


def test_an_image_in_neither_list_is_refused(published):
    nih = published("nih")
    nih.tree.text("test_list.txt", "00000099_000.png")
    with pytest.raises(
        ValueError, match=r"'00000003_000\.png' is in neither train_val_list nor test_list"
    ):
        nih.load()


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (
            "Data_Entry_2017_v2020.csv",
            "00000001_000.png,Flu,0,1,5,M,PA,1,1,1,1,",
            "row 2: 'Flu' is not a known",
        ),
        (
            "BBox_List_2017.csv",
            "00000001_001.png,Mass,1,two,3,4",
            "row 2: y is 'two', not a number",
        ),
        ("BBox_List_2017.csv", "00000099_000.png,Mass,1,2,3,4", "box in '00000099_000.png'"),
    ],
)
def test_altered_tables_are_refused(published, file, line, message):
    nih = published("nih")
    header = (nih.root / file).read_text().splitlines()[0]
    nih.tree.text(file, header, line)
    with pytest.raises(ValueError, match=message):
        nih.load()


def test_real_images_are_found_by_name(real_data, tmp_path):
    samples = real_data / "raw_samples"
    known = [
        row
        for row in csv.DictReader((samples / "labels.csv").read_text().splitlines())
        if row["path"].startswith("nih_png/")
    ]
    header = "Image Index,Finding Labels,Patient ID,View Position"
    rows = [
        f"{Path(row['path']).name},{row['subtype'] or 'No Finding'},"
        f"{row['patient_id'].removeprefix('nih-')},{row['view']}"
        for row in known
    ]
    (tmp_path / "images").symlink_to(samples / "nih_png", target_is_directory=True)
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join([header, *rows]))
    names = [Path(row["path"]).name for row in known]
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[:7]))
    (tmp_path / "test_list.txt").write_text("\n".join(names[7:]))
    data = load_nih(tmp_path)
    assert len(data.paths) == 14
    assert data.labels.any()
    of_name = [str(int(Path(path).name.split("_")[0])) for path in data.paths]
    assert data.groups.tolist() == of_name
