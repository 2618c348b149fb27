import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from otcxr_sk.datasets import make_chest_phantoms

NAMES = ["nodule", "opacity", "effusion", "pneumothorax", "cardiomegaly"]
SEEDS = st.integers(0, 2**31 - 1)


@pytest.fixture(scope="module")
def many():
    return make_chest_phantoms(300, random_state=0, return_masks=False)


def one_finding(name: str) -> list[float]:
    return [float(name == other) for other in NAMES]


def test_arrays_have_the_documented_shapes_and_dtypes():
    data = make_chest_phantoms(3, images_per_patient=3, image_size=48, random_state=0)
    assert (data.images.shape, data.images.dtype) == ((9, 48, 48), np.uint8)
    assert (data.labels.shape, data.labels.dtype) == ((9, 5), np.uint8)
    assert (data.lesion_masks.shape, data.lesion_masks.dtype) == ((9, 5, 48, 48), bool)
    assert (data.lung_masks.shape, data.lung_masks.dtype) == ((9, 48, 48), bool)
    assert data.label_names == NAMES
    assert data.groups.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert all(name in data.DESCR for name in NAMES)


@settings(max_examples=8)
@given(seed=SEEDS, n=st.integers(1, 4), more=st.integers(0, 3))
def test_the_same_seed_gives_the_same_bytes_and_the_same_first_patients(seed, n, more):
    few = make_chest_phantoms(n, image_size=40, random_state=seed)
    many = make_chest_phantoms(n + more, image_size=40, random_state=seed)
    for key in ("images", "labels", "lesion_masks", "lung_masks", "groups"):
        np.testing.assert_array_equal(few[key], many[key][: 2 * n])


def test_seeds_give_different_images_and_leave_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    a, b = (make_chest_phantoms(1, image_size=32, random_state=seed) for seed in (0, 1))
    make_chest_phantoms(1, image_size=32, random_state=np.random.RandomState(3))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert (a.images != b.images).mean() > 0.5


@settings(max_examples=10)
@given(seed=SEEDS, size=st.sampled_from([32, 47, 64, 128]), prevalence=st.sampled_from([0.3, 1.0]))
def test_masks_are_empty_if_and_only_if_the_label_is_0(seed, size, prevalence):
    data = make_chest_phantoms(4, image_size=size, prevalence=prevalence, random_state=seed)
    np.testing.assert_array_equal(data.lesion_masks.any(axis=(2, 3)), data.labels)
    area = data.lung_masks.mean(axis=(1, 2))
    assert area.min() > 0.12
    assert area.max() < 0.45
    halves = data.lung_masks[:, :, : size // 2].sum(), data.lung_masks[:, :, size // 2 :].sum()
    assert min(halves) > 0.25 * sum(halves)


def test_lungs_are_darker_than_the_heart_and_the_right_lung_is_larger():
    data = make_chest_phantoms(30, prevalence=one_finding("cardiomegaly"), random_state=0)
    heart = data.lesion_masks[:, 4]
    for image, lung, h in zip(data.images, data.lung_masks, heart, strict=True):
        assert image[lung].mean() < image[h].mean() - 30
    assert not (heart & data.lung_masks).any()
    assert data.lung_masks[:, :, :64].sum() > 1.1 * data.lung_masks[:, :, 64:].sum()


def test_enlarged_hearts_have_a_cardiothoracic_ratio_above_one_half():
    def ratio(prevalence):
        data = make_chest_phantoms(30, prevalence=prevalence, random_state=0, image_size=128)
        chest = data.lung_masks.any(axis=1)
        width = chest.shape[1] - chest.argmax(axis=1) - chest[:, ::-1].argmax(axis=1)
        return data.lesion_masks[:, 4].any(axis=1).sum(axis=1) / width

    enlarged = ratio(one_finding("cardiomegaly"))
    assert enlarged.min() > 0.49  # a pixel is worth 0.01
    assert enlarged.max() < 0.72


def contrast(name: str) -> np.ndarray:
    """Return the change in the mask minus that in the other lung, when only `name` is added."""
    j = NAMES.index(name)
    healthy = make_chest_phantoms(25, prevalence=0, random_state=5)
    ill = make_chest_phantoms(25, prevalence=one_finding(name), random_state=5)
    assert not healthy.labels.any()
    assert ill.labels.sum() == ill.labels[:, j].sum() == 50
    change = ill.images.astype(float) - healthy.images
    return np.array(
        [
            c[mask].mean() - c[lung & ~mask].mean()
            for c, mask, lung in zip(change, ill.lesion_masks[:, j], ill.lung_masks, strict=True)
        ]
    )


@pytest.mark.parametrize("name", ["nodule", "opacity", "effusion", "cardiomegaly"])
def test_dense_findings_are_brighter_where_their_mask_is(name):
    found = contrast(name)
    assert np.median(found) > 8
    assert (found > 0).mean() > 0.9


def test_pneumothorax_is_darker_where_its_mask_is():
    assert np.median(contrast("pneumothorax")) < -5


@pytest.mark.parametrize("name", ["opacity", "effusion", "pneumothorax"])
def test_findings_of_the_lung_lie_in_the_lung(name):
    data = make_chest_phantoms(10, prevalence=1, random_state=2)
    assert not (data.lesion_masks[:, NAMES.index(name)] & ~data.lung_masks).any()


def test_findings_are_independent_and_as_prevalent_as_asked(many):
    assert np.abs(many.labels.mean(axis=0) - 0.3).max() < 0.09
    off = np.corrcoef(many.labels.T)[np.triu_indices(5, 1)]
    assert np.abs(off).max() < 0.15
    per_patient = many.labels.reshape(300, 2, 5)
    same = (per_patient[:, 0] == per_patient[:, 1]).mean(axis=0)
    assert same[[0, 4]].tolist() == [1, 1]
    assert (same[[1, 2, 3]] < 0.75).all()


@pytest.mark.parametrize("name", ["nodule", "opacity", "effusion", "pneumothorax"])
def test_brightness_and_contrast_do_not_give_a_finding_away(many, name):
    label = many.labels[:, NAMES.index(name)]
    for summary in (many.images.mean(axis=(1, 2)), many.images.std(axis=(1, 2))):
        assert abs(roc_auc_score(label, summary) - 0.5) < 0.08


def test_raw_pixels_do_poorly_on_small_findings_and_better_on_large_ones(many):
    pixels = many.images.reshape(-1, 16, 8, 16, 8).mean(axis=(2, 4)).reshape(-1, 256) / 64

    def auc(name):
        label = many.labels[:, NAMES.index(name)]
        model = LogisticRegression(C=0.01, max_iter=1000)
        score = cross_val_predict(
            model, pixels, label, groups=many.groups, cv=GroupKFold(4), method="decision_function"
        )
        return roc_auc_score(label, score)

    assert auc("nodule") < 0.65
    assert auc("pneumothorax") < 0.7
    assert auc("cardiomegaly") > 0.8


def test_masks_are_optional(many):
    assert "lesion_masks" not in many
    assert "lung_masks" not in many


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_patients": 0}, "n_patients"),
        ({"n_patients": 2.5}, "n_patients"),
        ({"images_per_patient": 0}, "images_per_patient"),
        ({"image_size": 16}, "image_size"),
        ({"prevalence": 1.5}, "prevalence"),
        ({"prevalence": [0.1, 0.2]}, "prevalence"),
        ({"prevalence": float("nan")}, "prevalence"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_chest_phantoms(**{"n_patients": 1, **arguments})
