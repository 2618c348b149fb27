import numpy as np
import pandas as pd
import pytest

from otcxr_sk.datasets import load_images, load_labelled

IMAGES = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)
PATIENTS = np.array(["a", "a", "b", "c"])


@pytest.fixture
def save(tmp_path):
    def save_npz(**arrays):
        file = tmp_path / "data.npz"
        np.savez(file, **arrays)
        return file

    return save_npz


@pytest.fixture
def table(tmp_path):
    def write(text, name="table.csv"):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for name in ("1.png", "2.png", "sub/1.png"):
        (root / name).touch()
    return root


def test_columns_of_labels_in_an_npz_are_targets(save):
    labels = np.array([[0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]])
    file = save(images=IMAGES, labels=labels, label_names=["x", "y", "z"], patient_ids=PATIENTS)
    data = load_labelled(file)
    assert data.X is data.images
    np.testing.assert_array_equal(data.images, IMAGES)
    assert data.paths is None
    assert data.label_names == ["x", "y"]
    np.testing.assert_array_equal(data.labels, labels[:, :2])
    assert data.groups.tolist() == PATIENTS.tolist()
    assert data.ignored == {"z": "only one value, '0'"}
    assert data.table["y"].tolist() == ["1", "1", "0", "0"]


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([0, 1, 1, 0], None, {"label": [0, 1, 1, 0]}),
        ([0, 1, 1, 0], ["normal", "pneumonia"], {"label=pneumonia": [0, 1, 1, 0]}),
        ([0.0, 1.0, np.nan, 0.0], None, {"label": [0, 1, np.nan, 0]}),
        ([True, False, False, True], None, {"label": [1, 0, 0, 1]}),
        (np.float32([0.1, 2, np.nan, 0.1]), None, {"label=2": [0, 1, np.nan, 0]}),
        ([1e6 + 1, 1e6 + 2, 1e6 + 2, np.nan], None, {"label=1000002": [0, 1, 1, np.nan]}),
        (
            [0, 1, 2, 0],
            ["n", "b", "v"],
            {"label=b": [0, 1, 0, 0], "label=n": [1, 0, 0, 1], "label=v": [0, 0, 1, 0]},
        ),
    ],
)
def test_classes_in_an_npz_are_targets(save, labels, names, expected):
    more = {} if names is None else {"label_names": names}
    data = load_labelled(save(images=IMAGES, labels=labels, patient_ids=PATIENTS, **more))
    assert data.label_names == list(expected)
    np.testing.assert_array_equal(data.labels, np.array(list(expected.values())).T)


def test_text_in_an_npz_may_be_bytes(save, table):
    text = {
        "labels": ["virus", "", "bacteria", "virus"],
        "patient_ids": ["a", "a", "é", "c"],
        "file_names": ["1.png", "2.png", "ü.png", "4.png"],
    }
    rows = table("path,ill\n4.png,1\n1.png,1\nü.png,0\n2.png,0\n")
    found = []
    for coded in (text, {name: np.char.encode(values, "utf-8") for name, values in text.items()}):
        file = save(images=IMAGES, **coded)
        found += [load_labelled(file), load_labelled(file, rows)]
    for one, other in (found[::2], found[1::2]):
        assert one.label_names == other.label_names
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.groups.tolist() == other.groups.tolist() == text["patient_ids"]
    assert found[0].label_names == ["label=virus"]
    assert found[1].labels.ravel().tolist() == [1, 0, 0, 1]


def test_an_npz_without_labels_has_no_targets(save):
    data = load_labelled(save(images=IMAGES, patient_ids=PATIENTS))
    assert (data.labels.shape, data.label_names) == ((4, 0), [])
    assert (data.split, data.table, data.missing, data.ignored) == (None, {}, [], {})


def test_columns_of_a_csv_are_targets_or_ignored(save, table):
    text = (
        "patient_id,ill,subtype,stage,age,site,note\n"
        f"p,0,,I,30,A,{'long ' * 20}\n"
        "p,1,virus,II,41,A,short\n"
        "q,1.0,bacteria,III,52,A,short\n"
        "r,,virus,I,63,A,short\n"
    )
    data = load_labelled(save(images=IMAGES), table(text))
    assert data.label_names == ["ill", "subtype=virus", "stage=I", "stage=II", "stage=III"]
    nan = np.nan
    expected = [[0, nan, 1, 0, 0], [1, 1, 0, 1, 0], [1, 0, 0, 0, 1], [nan, 1, 1, 0, 0]]
    np.testing.assert_array_equal(data.labels, expected)
    assert data.groups.tolist() == ["p", "p", "q", "r"]
    assert data.ignored == {
        "age": "all values differ",
        "site": "only one value, 'A'",
        "note": "free text",
    }


def test_targets_are_the_columns_that_were_asked_for_in_that_order(save, table):
    rows = table("patient_id,sex,age,ill,old\na,F,30,0,1\na,F,41,1,0\nb,M,52,0,0\nc,M,63,1,1\n")
    file = save(images=IMAGES)
    assert load_labelled(file, rows).label_names == ["sex=M", "ill", "old"]
    data = load_labelled(file, rows, targets=["old", "ill"])
    assert data.label_names == ["old", "ill"]
    assert data.labels.tolist() == [[1, 0], [0, 1], [0, 0], [1, 1]]
    assert data.table["sex"].tolist() == ["F", "F", "M", "M"]
    assert data.ignored == dict.fromkeys(["sex", "age"], "not one of targets")
    assert load_labelled(file, rows, targets=[]).labels.shape == (4, 0)
    for name, words in (("age", "'age' cannot be a target: all values"), ("sick", "no column 's")):
        with pytest.raises(ValueError, match=words):
            load_labelled(file, rows, targets=[name])
    with pytest.raises(TypeError, match=r"pass \['ill'\]"):
        load_labelled(file, rows, targets="ill")


def test_targets_come_in_any_collection_and_name_columns_once(save, table):
    rows = table("patient_id,sex,ill\na,F,0\na,F,1\nb,M,0\nb,M,1\n")
    file = save(images=IMAGES)
    for targets in (iter(["ill"]), {"ill"}, np.array(["ill"]), pd.Series(["ill"], index=[7])):
        data = load_labelled(file, rows, targets=targets)
        assert repr(data.label_names) == "['ill']"
        assert data.ignored == {"sex": "not one of targets"}
    for twice in (["ill", "ill"], np.array(["ill", "ill"])):
        with pytest.raises(ValueError, match="names a column twice: 'ill', 'ill'"):
            load_labelled(file, rows, targets=twice)
    # Names of patients would be those of labels.
    with pytest.raises(ValueError, match="'patient_id' cannot be a target"):
        load_labelled(file, rows, targets=["patient_id"])
    for wrong in (5, b"ill", [None], [["ill"]]):
        with pytest.raises(TypeError, match="targets must be names of columns"):
            load_labelled(file, rows, targets=wrong)


def test_rows_are_matched_to_images_by_name(save, table):
    names = ["1.png", "2.png", "3.png", "4.png"]
    file = save(images=IMAGES, file_names=names)
    rows = table("path,patient_id,ill\nx/3.png,c,1\nx/1.png,a,0\ny/4.png,d,0\nx/2.png,b,1\n")
    data = load_labelled(file, rows)
    assert data.groups.tolist() == ["a", "b", "c", "d"]
    assert data.labels.ravel().tolist() == [0, 1, 1, 0]
    assert data.table["path"].tolist() == ["x/1.png", "x/2.png", "x/3.png", "y/4.png"]


@pytest.mark.parametrize("third", ["x/2.png", "x/9.png"])
def test_rows_that_match_no_image_or_the_same_one_are_refused(save, table, third):
    file = save(images=IMAGES[:3], file_names=["1.png", "2.png", "3.png"])
    rows = table(f"path,patient_id\nx/1.png,a\nx/2.png,b\n{third},c\n")
    with pytest.raises(ValueError, match=f"row 4: path '{third}'"):
        load_labelled(file, rows)


def test_images_of_a_folder_are_in_the_order_of_the_table(folder, table):
    text = "\ufeffpath,patient_id,ill\nsub/1.png,a,1\n1.png,b,0\n./2.png,b,\n,,\n, ,\n"
    data = load_labelled(folder, table(text))
    assert data.X.tolist() == data.paths
    assert data.paths == [str(folder / name) for name in ("sub/1.png", "1.png", "2.png")]
    assert data.images is None
    np.testing.assert_array_equal(data.labels, [[1], [0], [np.nan]])
    assert (data.split, data.missing, data.ignored) == (None, [], {})
    assert {name: column.tolist() for name, column in data.table.items()} == {
        "path": ["sub/1.png", "1.png", "./2.png"],
        "patient_id": ["a", "b", "b"],
        "ill": ["1", "0", ""],
    }
    table(text, "images/labels.csv")
    assert load_labelled(str(folder)).paths == data.paths


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("file,patient_id\n1.png,a\n", ValueError, "no column 'path'; it has 'file', 'patient_id'"),
        ("path,ill\n1.png,1\n", ValueError, "no column 'patient_id'; it has 'path', 'ill'"),
        ("path,patient_id\n1.png,\n", ValueError, "row 2: patient_id is empty"),
        (
            "path,patient_id\n1.png,a\n2.png,NaN\nsub/1.png,None\n",
            ValueError,
            r"row 3 \(and 1 more\): patient_id is empty; leave such images out, or give each",
        ),
        (
            "path,patient_id\n3.png,a\n2.png,b\n4.png,c\n",
            FileNotFoundError,
            r"row 2 \(and 1 more\): path '3.png' is not a file in .*; correct it, or leave",
        ),
        ("path,patient_id\n,a\n2.png,b\n,c\n", ValueError, r"row 2 \(and 1 more\): path is empty"),
        ("path,patient_id\n1.png,a\n3.png,b\n", FileNotFoundError, "row 3: path '3.png'"),
        ("path,patient_id\n1.png,a\nsub,b\n", FileNotFoundError, "row 3: path 'sub'"),
        ("path,patient_id\n1.png,a\n,b\n", ValueError, "row 3: path is empty"),
        (
            "path,patient_id\n1.png,a\nsub/../1.png,b\n",
            ValueError,
            "row 3: .* is also in row 2",
        ),
        ("path,patient_id\n,,\n", ValueError, "has no rows"),
        (
            "path,patient_id,site\n1.png,a,A\n2.png,b,A\n",
            ValueError,
            "no column that can be a target \\('site': only one value",
        ),
    ],
)
def test_malformed_tables_are_refused(folder, table, text, error, message):
    with pytest.raises(error, match=message):
        load_labelled(folder, table(text))


def test_rows_without_a_file_can_be_left_out(folder, table):
    text = "path,patient_id,ill\n1.png,a,1\n3.png,,1\nsub/1.png,b,0\n4.png,c,\n"
    data = load_labelled(folder, table(text), missing="drop")
    alone = load_labelled(folder, table("path,patient_id,ill\n1.png,a,1\nsub/1.png,b,0\n"))
    assert data.missing == ["3.png", "4.png"]
    assert data.paths == alone.paths
    for name in ("labels", "groups"):
        np.testing.assert_array_equal(data[name], alone[name])
    assert data.table["path"].tolist() == ["1.png", "sub/1.png"]
    with pytest.raises(
        FileNotFoundError, match=r"row 2: path '9\.png' is not a file in \S*; correct it$"
    ):
        load_labelled(folder, table("path,patient_id\n9.png,a\n"), missing="drop")
    with pytest.raises(ValueError, match="missing must be 'raise' or 'drop', got 'skip'"):
        load_labelled(folder, missing="skip")


@pytest.mark.parametrize("dtype", [">u2", "<u2", ">f4"])
def test_images_in_an_npz_may_have_either_byte_order(save, dtype):
    data = load_labelled(save(images=IMAGES.astype(dtype), patient_ids=PATIENTS))
    np.testing.assert_array_equal(data.images, IMAGES)


def test_an_image_with_nan_in_an_npz_is_kept_for_the_estimator_to_judge(save):
    images = np.where(IMAGES == 40, np.nan, 1.0)
    data = load_labelled(save(images=images, patient_ids=PATIENTS))
    np.testing.assert_array_equal(data.images, images)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1.0", "0.0", "1", "0"], {"ill": [1, 0, 1, 0]}),
        ([" 1 ", "0", "", "n/a"], {"ill": [1, 0, np.nan, np.nan]}),
        (["1", "NULL", "#N/A", "0"], {"ill": [1, np.nan, np.nan, 0]}),
        (["true", "false", "", "true"], {"ill=true": [1, 0, np.nan, 1]}),
        (["no", "yes", "yes", ""], {"ill=yes": [0, 1, 1, np.nan]}),
        (["-1", "1", "1", ""], {"ill=1": [0, 1, 1, np.nan]}),
        (["2", "2.0", "3", "3.00"], {"ill=3": [0, 0, 1, 1]}),
        (["none", "none", "mild", "mild"], {"ill=none": [1, 1, 0, 0]}),
        (
            ["-1", "0", "1", "0"],
            {"ill=-1": [1, 0, 0, 0], "ill=0": [0, 1, 0, 1], "ill=1": [0, 0, 1, 0]},
        ),
    ],
)
def test_values_of_many_programs_are_the_labels_that_they_mean(save, table, values, expected):
    rows = "".join(f"p{row},{value}\n" for row, value in enumerate(values))
    data = load_labelled(save(images=IMAGES), table(f"patient_id,ill\n{rows}"))
    assert data.label_names == list(expected)
    np.testing.assert_array_equal(data.labels, np.array(list(expected.values())).T)


def test_missing_files_are_named(tmp_path, folder, save):
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz does not exist"):
        load_labelled(tmp_path / "nothing.npz")
    with pytest.raises(FileNotFoundError, match=r"labels\.csv does not exist: a folder needs"):
        load_labelled(folder)
    with pytest.raises(FileNotFoundError, match=r"t\.csv does not exist"):
        load_labelled(save(images=IMAGES), tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"neither a folder nor an \.npz"):
        load_labelled(folder / "1.png")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "no patients: .* no patient_ids, and no CSV"),
        ({"pictures": IMAGES}, "no array 'images'; it has 'pictures'"),
        ({"images": IMAGES[0]}, r"shape \(n, h, w\), got \(6, 5\)"),
        ({"images": IMAGES.astype(int)}, "uint8, uint16 or float, got int64"),
        (
            {"images": IMAGES, "patient_ids": [1, np.nan, 2, np.nan]},
            r"data\.npz, patient_ids: row 1 has no patient \(2 of 4 rows have none: 1, 3\)",
        ),
        ({"images": IMAGES, "patient_ids": ["a", "", "b", "b"]}, "patient_ids: row 1 has no pat"),
        ({"images": np.array([[[None]]])}, "cannot be read"),
        ({"images": IMAGES, "patient_ids": PATIENTS[:3]}, r"patient_ids has shape \(3,\)"),
        ({"images": IMAGES, "labels": [0, 1], "patient_ids": PATIENTS}, r"labels has shape \(2,\)"),
        (
            {
                "images": IMAGES,
                "labels": np.eye(4, dtype=int),
                "label_names": ["a"],
                "patient_ids": PATIENTS,
            },
            "for 4 columns of labels, label_names must be as many",
        ),
    ],
)
def test_malformed_npz_are_refused(save, arrays, message):
    with pytest.raises(ValueError, match=message):
        load_labelled(save(**arrays))


def test_an_npz_and_a_csv_that_do_not_match_are_refused(save, table):
    file = save(images=IMAGES)
    with pytest.raises(ValueError, match=r"has 1 row, but .* has 4 images"):
        load_labelled(file, table("patient_id\na\n"))
    with pytest.raises(ValueError, match="has no column patient_id"):
        load_labelled(file, table("ill\n0\n1\n0\n1\n"))


def test_a_truncated_npz_is_refused(save):
    file = save(images=IMAGES, patient_ids=PATIENTS)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"data\.npz cannot be read"):
        load_labelled(file)


def test_real_radiographs_are_read(real_data):
    nih = load_labelled(real_data / "nih89.npz")
    assert nih.labels.shape == (89, 14)
    assert len(set(nih.groups.tolist())) == 86
    assert nih.label_names[0] == "Atelectasis"


def test_images_are_read_without_labels_and_without_patients(save):
    images, groups = load_images(save(images=IMAGES))
    np.testing.assert_array_equal(images, IMAGES)
    assert groups is None
    _, groups = load_images(save(images=IMAGES, patient_ids=PATIENTS))
    np.testing.assert_array_equal(groups, PATIENTS)
    with pytest.raises(ValueError, match="patient_ids: row 1 has no patient"):
        load_images(save(images=IMAGES, patient_ids=["a", "", "b", "c"]))
