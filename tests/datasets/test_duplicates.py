import io
import pickle
import time
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from joblib import parallel_config
from PIL import Image

from otcxr_sk._quote import counted
from otcxr_sk.datasets import find_near_duplicates, make_chest_phantoms
from otcxr_sk.datasets._duplicates import _close_pairs
from otcxr_sk.images import ArraySource, ImageReadError, UnusableImageWarning


@pytest.fixture(scope="module")
def phantoms():
    return make_chest_phantoms(
        40, images_per_patient=1, image_size=128, return_masks=False, random_state=0
    ).images


def compressed(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=40)
    return np.asarray(Image.open(stream))


def resized(image):
    small = Image.fromarray(image).resize((80, 80), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((128, 128), Image.Resampling.BICUBIC))


COPIES = {
    "compressed": compressed,
    "resized": resized,
    "darker": lambda image: (255 * (image / 255) ** 1.3).astype(np.uint8),
    "brighter": lambda image: (255 * (image / 255) ** 0.7).astype(np.uint8),
    "clipped": lambda image: np.clip(1.3 * image - 20.0, 0, 255).astype(np.uint8),
}


@given(
    arrays(
        np.int8, st.tuples(st.integers(1, 12), st.integers(1, 9)), elements=st.sampled_from([-1, 1])
    ),
    st.integers(0, 8),
)
def test_all_close_pairs_and_no_others_are_found(signs, threshold):
    pairs, distance = _close_pairs(signs, threshold)
    differ = (signs[:, None] != signs[None]).sum(axis=2)
    expected = {
        (i, j): differ[i, j]
        for i in range(len(signs))
        for j in range(i + 1, len(signs))
        if differ[i, j] <= threshold
    }
    assert dict(zip(map(tuple, pairs.tolist()), distance, strict=True)) == expected


def test_pairs_do_not_depend_on_the_size_of_blocks(monkeypatch):
    signs = np.where(np.random.default_rng(0).random((50, 255)) < 0.5, 1, -1).astype(np.int8)
    whole = _close_pairs(signs, 115)
    assert len(whole[0]) > 5
    monkeypatch.setattr("otcxr_sk.datasets._duplicates._BLOCK_BYTES", 4 * 50 * 3)
    for one, other in zip(whole, _close_pairs(signs, 115), strict=True):
        np.testing.assert_array_equal(one, other)


def test_different_patients_are_not_duplicates(phantoms):
    assert len(find_near_duplicates(phantoms)) == 0


@pytest.mark.parametrize("change", COPIES)
def test_copies_are_found_and_are_not_exact(phantoms, change):
    copies = np.stack([COPIES[change](image) for image in phantoms[:10]])
    found = find_near_duplicates(np.concatenate([phantoms, copies]))
    assert sorted(map(tuple, found.pairs.tolist())) == [(i, 40 + i) for i in range(10)]
    assert not found.exact.any()


def test_brightness_and_contrast_change_none_of_the_bits(phantoms):
    images = phantoms.astype(np.float64) / 255
    found = find_near_duplicates(np.concatenate([images, 0.01 * images + 0.3]), threshold=1)
    assert sorted(map(tuple, found.pairs.tolist())) == [(i, 40 + i) for i in range(40)]


def test_the_same_image_in_another_format_is_exact(phantoms, tmp_path):
    Image.fromarray(phantoms[0]).save(tmp_path / "a.png")
    Image.fromarray(phantoms[0]).save(tmp_path / "b.tiff")
    np.save(tmp_path / "c.npy", phantoms[0])
    Image.fromarray(phantoms[1]).save(tmp_path / "d.png")
    found = find_near_duplicates(sorted(tmp_path.iterdir()))
    assert found.pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert found.exact.all()


def test_exact_pairs_come_first_then_the_most_similar(phantoms):
    extra = np.stack([compressed(phantoms[3]), phantoms[7], resized(phantoms[1])])
    found = find_near_duplicates(np.concatenate([phantoms, extra]))
    assert found.pairs[0].tolist() == [7, 41]
    assert found.exact.tolist() == [True, False, False]
    assert (np.diff(found.distance) >= 0).all()


def test_pairs_are_within_or_across_patients_and_parts(phantoms):
    images = np.concatenate([phantoms, phantoms[:3]])
    groups = np.array([*range(40), 0, 39, 2])
    split = np.array(["train"] * 41 + ["test"] * 2)
    found = find_near_duplicates(images, groups, split=split)
    assert found.pairs.tolist() == [[0, 40], [1, 41], [2, 42]]
    assert found.across_groups.tolist() == [False, True, False]
    assert found.across_splits.tolist() == [False, True, True]
    across = found[found.across_groups]
    assert across.rows() == [
        {
            "first": 1,
            "second": 41,
            "distance": 0,
            "exact": True,
            "first_group": 1,
            "second_group": 39,
            "first_split": "train",
            "second_split": "test",
        }
    ]
    assert str(found) == (
        "among 43 images, 3 pairs look the same (3 identical)\n"
        "  1 of different patients, 2 of one patient\n  2 of different parts, 1 of one part"
    )


def test_patients_and_parts_are_optional(phantoms):
    found = find_near_duplicates(phantoms[[0, 1, 0]])
    assert found.across_groups is None
    assert found.across_splits is None
    assert found.rows() == [{"first": 0, "second": 2, "distance": 0, "exact": True}]
    assert "patient" not in str(found)


def test_rows_name_the_files_of_a_folder(phantoms, tmp_path):
    for row, name in ((0, "a"), (1, "b"), (0, "c")):
        Image.fromarray(phantoms[row]).save(tmp_path / f"{name}.png")
    (pair,) = find_near_duplicates(str(tmp_path)).rows()
    assert pair["first_file"] == str(tmp_path / "a.png")
    assert pair["second_file"] == str(tmp_path / "c.png")


def test_merged_groups_join_patients_who_share_a_pair(phantoms):
    images = np.concatenate([phantoms[:6], phantoms[[0, 1]]])
    groups = np.array(["a", "b", "c", "d", "e", "c", "b", "x"])
    merged = find_near_duplicates(images, groups).merged_groups()
    # Row 0 (a) is row 6 (b), row 1 (b) is row 7 (x): a, b and x are one.
    assert len(set(merged[[0, 1, 6, 7]])) == 1
    assert merged[2] == merged[5]
    assert len(set(merged)) == 4
    alone = find_near_duplicates(images).merged_groups()
    assert len(set(alone)) == 6


@settings(max_examples=5)
@given(st.permutations(range(12)))
def test_the_order_of_the_images_does_not_matter(phantoms, order):
    images = np.concatenate([phantoms[:9], phantoms[:3]])
    pairs = find_near_duplicates(images[order]).pairs
    assert {frozenset(order[i] for i in pair) for pair in pairs} == {
        frozenset({i, 9 + i}) for i in range(3)
    }


@pytest.mark.slow
def test_workers_find_the_same_pairs(phantoms):
    images = np.concatenate([phantoms, phantoms, phantoms[:5]])
    one, two = find_near_duplicates(images), find_near_duplicates(images, n_jobs=2)
    np.testing.assert_array_equal(one.pairs, two.pairs)
    np.testing.assert_array_equal(one.distance, two.distance)
    assert one.exact.all()
    assert two.exact.all()


def test_processes_that_cannot_be_started_are_told_of(phantoms):
    with (
        patch("joblib._parallel_backends.ThreadingBackend.submit", side_effect=BlockingIOError),
        parallel_config("threading"),
        pytest.raises(RuntimeError, match=r"could not be started; .* lower n_jobs"),
    ):
        find_near_duplicates(phantoms, n_jobs=2)


def test_blank_images_are_pairs_up_to_a_limit(monkeypatch):
    images = np.zeros((30, 64, 64), np.uint8)
    assert len(find_near_duplicates(images)) == 30 * 29 // 2
    monkeypatch.setattr("otcxr_sk.datasets._duplicates._MOST_PAIRS", 400)
    with pytest.raises(ValueError, match=r"more than 400 pairs .* remove blank images"):
        find_near_duplicates(images)


def test_any_source_is_read_and_the_result_can_be_pickled(phantoms):
    four = phantoms[[0, 1, 2, 0], :, :, None]
    found = find_near_duplicates(ArraySource(four, layout="nhwc"))
    assert found.pairs.tolist() == [[0, 3]]
    assert len(pickle.loads(pickle.dumps(found))) == 1


@settings(max_examples=10)
@given(bad=st.sets(st.integers(0, 11), min_size=1, max_size=11))
def test_images_that_cannot_be_used_are_listed_and_the_others_compared(phantoms, bad):
    images = np.concatenate([phantoms[:6], phantoms[:6]]) / 255
    groups, split = np.arange(12) % 6, np.repeat(["train", "test"], 6)
    whole = find_near_duplicates(images, groups, split=split)
    images[list(bad), 5, 5] = np.nan
    with pytest.warns(UnusableImageWarning, match=rf"{len(bad)} of 12 .*\n.*row {min(bad)}: "):
        found = find_near_duplicates(images, groups, split=split)
    kept = ~np.isin(whole.pairs, list(bad)).any(axis=1)
    for column in ("pairs", "distance", "exact", "across_groups", "across_splits"):
        np.testing.assert_array_equal(getattr(found, column), getattr(whole, column)[kept])
    assert [problem["row"] for problem in found.unusable] == sorted(bad)
    assert str(found).endswith(f"  {counted(len(bad), 'image')} cannot be used or compared")
    assert len(found.merged_groups()) == 12


@pytest.mark.parametrize("n_jobs", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_a_damaged_a_missing_and_a_nameless_file_cost_one_row_each(phantoms, tmp_path, n_jobs):
    paths = [tmp_path / f"{row}.png" for row in range(4)]
    for path, image in zip(paths, phantoms[[0, 1, 0, 2]], strict=True):
        Image.fromarray(image).save(path)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG broken")
    paths[1:1] = [tmp_path / "bad.png", None, tmp_path / "gone.png"]
    with pytest.warns(UnusableImageWarning, match="3 of 7 images cannot be used"):
        found = find_near_duplicates(paths, n_jobs=n_jobs)
    assert found.pairs.tolist() == [[0, 5]]
    assert [(problem["row"], problem["file"]) for problem in found.unusable] == [
        (1, str(paths[1])),
        (2, None),
        (3, str(paths[3])),
    ]
    assert "no such file" in found.unusable[2]["reason"]


def test_unusable_arguments_and_images_are_refused(phantoms, tmp_path):
    with pytest.raises(ValueError, match="groups has 39 rows for 40 images"):
        find_near_duplicates(phantoms, np.arange(39))
    with pytest.raises(ValueError, match="split: row 2 has no part; leave such images out"):
        find_near_duplicates(phantoms, split=["train", "test", None, *["test"] * 37])
    with pytest.raises(ValueError, match="threshold must be 0 to 254, got 255"):
        find_near_duplicates(phantoms, threshold=255)
    with pytest.raises(ImageReadError, match=r"none\.png"):
        find_near_duplicates([tmp_path / "none.png"])


def test_only_the_copies_among_real_radiographs_are_duplicates(real_data):
    with np.load(real_data / "kermany_dev.npz", allow_pickle=False) as stored:
        images, patients = stored["images"], stored["patient_ids"]
    copies = [
        COPIES[name](images[i])
        for i, name in zip(range(0, 4000, 20), 40 * list(COPIES), strict=True)
    ]
    began = time.perf_counter()
    found = find_near_duplicates(
        np.concatenate([images, copies]), np.concatenate([patients, patients[:4000:20]])
    )
    assert time.perf_counter() - began < 60
    expected = [(i, len(images) + k) for k, i in enumerate(range(0, 4000, 20))]
    assert sorted(map(tuple, found.pairs.tolist())) == expected
    assert not found.across_groups.any()
