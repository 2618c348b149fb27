import shutil

import pytest


@pytest.fixture
def own(tmp_path, folder):
    """A copy of the data, to be spoiled."""
    return shutil.copytree(folder, tmp_path / "own")


def test_a_good_study_has_no_problems(as_json, folder):
    status, [found] = as_json("check", folder, "--split", "part")
    assert status == 0
    assert (found["images"], found["patients"]) == (64, 16)
    assert found["parts"] == {"train": 40, "test": 24}
    assert found["unreadable"] == found["duplicates"] == found["leakage"] == []


def test_what_spoils_a_study_is_found(as_json, run, own):
    """A file cut short, an image of one patient as another's, a patient in both parts."""
    shutil.copy(own / "PLANTED-00.png", own / "PLANTED-63.png")
    whole = (own / "PLANTED-10.png").read_bytes()
    (own / "PLANTED-10.png").write_bytes(whole[: len(whole) // 2])
    table = (
        (own / "labels.csv")
        .read_text()
        .replace("-07.png,PLANTED1,1,1,37,train", "-07.png,PLANTED1,1,1,37,test")
    )
    (own / "labels.csv").write_text(table)
    status, [found] = as_json("check", own, "--split", "part")
    assert status == 1
    assert [one["row"] for one in found["unreadable"]] == [10]
    (pair,) = found["duplicates"]
    assert (pair["rows"], pair["identical"], pair["across_patients"]) == ([0, 63], True, True)
    assert found["leakage"] == [{"parts": ["train", "test"], "patients": 1, "rows": [4, 5, 6, 7]}]
    _, out, _ = run("check", own, "--split", "part")
    line = next(one for one in out.decode().splitlines() if one.endswith("split by patient"))
    assert "1 patient in both train and test, with 4 images (row 4, " in line
    assert "PLANTED1" not in line.replace("PLANTED-", "")


def test_a_person_sees_the_files_and_no_patient(run, own):
    shutil.copy(own / "PLANTED-00.png", own / "PLANTED-63.png")
    status, out, _ = run("check", own)
    assert status == 1
    assert "PLANTED-63.png (identical, of two patients)" in out.decode()
    assert "PLANTED15" not in out.decode()


def test_folders_are_parts_of_a_split(as_json, own, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(own / "PLANTED-05.png", other / "x.png")
    status, [found] = as_json("check", own, other)
    assert status == 1
    assert [pair["across_parts"] for pair in found["duplicates"]] == [True]
    assert found["patients"] is None


def test_headers_tell_patients_views_and_doubts(as_json, dicom, phantoms, tmp_path):
    for row, image in enumerate(phantoms.images[:4]):
        view = "PA" if row < 3 else ""
        dicom(f"{row}.dcm", 16 * image.astype(int), ViewPosition=view, PatientID=f"P{row // 2}",
              PresentationIntentType="FOR PROCESSING")  # fmt: skip
    status, [found] = as_json("check", tmp_path)
    assert (status, found["patients"]) == (0, 2)
    (tmp_path / "labels.csv").write_text("path,patient_id\n0.dcm,A\n1.dcm,B\n2.dcm,C\n3.dcm,D\n")
    status, [of_table] = as_json("check", tmp_path)
    assert (of_table["patients"], of_table["views"]) == (4, found["views"])
    assert found["views"]["view_position"] == {"PA": 3, "not said": 1}
    assert found["views"]["modality"] == {"DX": 4}
    ((doubt, count),) = found["doubts"].items()
    assert (count, "FOR PROCESSING" in doubt) == (4, True)
