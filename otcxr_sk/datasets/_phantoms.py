"""Synthetic frontal chest radiographs."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
from sklearn.utils import Bunch, check_random_state

from ._anatomy import PATIENT, POSE, build_chest, draw
from ._film import EXPOSURE, FRAME, develop, expose, frame, mark, smooth_noise
from ._findings import FINDINGS, LASTING, PASSING, add_findings
from ._vessels import draw_vessels, vessel_field

_DESCR = """\
Synthetic frontal chest radiographs
-----------------------------------
No patient was ever near them. Each picture is the log attenuation of X-rays through an analytic
chest (soft tissue, lungs, vessels, heart, mediastinum, ribs, spine, shoulders), with scatter,
quantum noise, blur, a film's response, collimation and a lead marker. Anatomy belongs to the
patient; inspiration, pose, exposure, noise, collimation and marker to the picture. The patient's
left is at the right of the picture.

Labels (columns of `labels`, planes of `lesion_masks`), independent of each other:

nodule         solid ball, 3 to 8 % of the picture's width; a property of the patient
opacity        consolidation or ground glass, in places ending at a fissure
effusion       fluid with a meniscus, from a blunted angle to half of a lung, on one or both sides
pneumothorax   no vessels beyond a thin pleural line
cardiomegaly   cardiothoracic ratio above 0.5; a property of the patient; the mask is the heart

They serve to try software. They say nothing about how well a model reads real radiographs.
"""


def make_chest_phantoms(
    n_patients: int = 100,
    *,
    images_per_patient: int = 2,
    image_size: int = 128,
    prevalence: float | Sequence[float] = 0.3,
    return_masks: bool = True,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Make synthetic frontal chest radiographs with findings, masks and patients.

    Split by `groups`: two pictures of a patient share their anatomy.

    Parameters
    ----------
    n_patients : int, default=100
        Number of patients. The first patients are the same however many are drawn.
    images_per_patient : int, default=2
        Pictures of each patient.
    image_size : int, default=128
        Side of the square pictures in pixels, at least 32.
    prevalence : float or sequence of 5 floats, default=0.3
        Probability of each finding, in [0, 1], in the order of `label_names`. With one
        `random_state`, another prevalence adds or removes findings and changes nothing else of
        the chest: 0 and 1 give the same patients without and with all findings.
    return_masks : bool, default=True
        Whether to return the masks, which take 6 bytes for each pixel.
    random_state : int, RandomState instance or None, default=None
        Seed. The same integer gives the same bytes.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        images : ndarray of uint8, shape (n, image_size, image_size)
            Bright is dense, as radiologists view them; n is
            ``n_patients * images_per_patient``.
        labels : ndarray of uint8, shape (n, 5)
            1 where the finding is present.
        label_names : list of str
            nodule, opacity, effusion, pneumothorax, cardiomegaly.
        groups : ndarray of int64, shape (n,)
            Patient of each picture.
        lesion_masks : ndarray of bool, shape (n, 5, image_size, image_size)
            Where each finding is; for cardiomegaly the heart. Empty if and only if the label
            is 0.
        lung_masks : ndarray of bool, shape (n, image_size, image_size)
            Both lungs, diseased parts included, without heart and mediastinum.
        DESCR : str
            What the pictures are.

    Raises
    ------
    ValueError
        If a count is below 1, `image_size` is below 32, or a prevalence lies outside [0, 1].

    Examples
    --------
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> data = make_chest_phantoms(3, image_size=64, random_state=0)
    >>> data.images.shape, data.labels.shape, data.groups.tolist()
    ((6, 64, 64), (6, 5), [0, 0, 1, 1, 2, 2])
    >>> bool((data.lesion_masks.any(axis=(2, 3)) == data.labels).all())
    True
    """
    for name, value, least in (
        ("n_patients", n_patients, 1),
        ("images_per_patient", images_per_patient, 1),
        ("image_size", image_size, 32),
    ):
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    rates = np.asarray(prevalence, dtype=float)
    if rates.shape not in ((), (len(FINDINGS),)) or not ((rates >= 0) & (rates <= 1)).all():
        raise ValueError(
            f"prevalence must be one number in [0, 1] or {len(FINDINGS)} of them, "
            f"got {prevalence!r}"
        )
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)

    m, n = images_per_patient, n_patients * images_per_patient
    shape = (image_size, image_size)
    data = Bunch(
        images=np.empty((n, *shape), np.uint8),
        labels=np.empty((n, len(FINDINGS)), np.uint8),
        label_names=list(FINDINGS),
        groups=np.repeat(np.arange(n_patients), m),
        DESCR=_DESCR,
    )
    if return_masks:
        data.lesion_masks = np.empty((n, len(FINDINGS), *shape), bool)
        data.lung_masks = np.empty((n, *shape), bool)
    for i, source in enumerate(np.random.SeedSequence(seed).spawn(n_patients)):
        rows = slice(i * m, (i + 1) * m)
        data.images[rows], data.labels[rows], lesions, lungs = _one_patient(
            source, m, image_size, rates
        )
        if return_masks:
            data.lesion_masks[rows], data.lung_masks[rows] = lesions, lungs
    return data


def _one_patient(
    source: np.random.SeedSequence, m: int, size: int, rates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels, lesion masks and lung masks of the `m` pictures of one patient."""
    body, disease, film = (np.random.default_rng(child) for child in source.spawn(3))
    p, points, pose = draw(body, PATIENT), draw_vessels(body), draw(body, POSE, m)
    findings = draw(disease, LASTING) | draw(disease, PASSING, m)
    findings = {name: np.broadcast_to(value, (m, 1, 1)) for name, value in findings.items()}
    lasting = [name in ("nodule", "cardiomegaly") for name in FINDINGS]
    lots = np.where(lasting, disease.random(len(FINDINGS)), disease.random((m, len(FINDINGS))))
    present = lots < rates
    exposure, framing = draw(film, EXPOSURE, m), draw(film, FRAME, m)
    texture = smooth_noise(film, m, size, 14)
    noise = film.standard_normal((m, size, size), np.float32)

    enlarged = present[:, FINDINGS.index("cardiomegaly"), None, None]
    chest = build_chest(p, pose, enlarged, size)
    vessels = vessel_field(points, p, pose, size)
    tissue, lesions = add_findings(chest, present, findings, vessels, texture, p)
    field = frame(chest.lung, framing)
    picture = develop(expose(tissue, exposure, noise), field, chest.lung, exposure)
    mark(picture, framing)
    grey = 244 * picture + exposure["brightness"] * (picture > 0.02) + 4
    grey[~field] = 0
    lesions &= field[:, None]
    return np.clip(grey, 0, 255).astype(np.uint8), present, lesions, chest.lung
