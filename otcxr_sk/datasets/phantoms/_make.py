"""Synthetic frontal chest radiographs."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

from otcxr_sk._ordinary import ordinary
from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets.phantoms._anatomy import PATIENT, POSE, build_chest, draw, smooth_noise
from otcxr_sk.datasets.phantoms._exact import normals, uniforms
from otcxr_sk.datasets.phantoms._film import EXPOSURE, FRAME, develop, expose, frame, mark
from otcxr_sk.datasets.phantoms._findings import FINDINGS, LASTING, PASSING, add_findings
from otcxr_sk.datasets.phantoms._vessels import draw_vessels, vessel_field

_DESCR = """\
Synthetic frontal chest radiographs
-----------------------------------
No patient data were used. Each image is the log attenuation of X-rays through an analytic chest
(soft tissue, lungs, vessels, heart, mediastinum, ribs, spine, shoulders), with scatter, quantum
noise, blur, the response of a film, collimation and a lead marker. Anatomy belongs to the patient;
inspiration, pose, exposure, noise, collimation and marker belong to the image. The patient's left
is at the right of the image.

Labels (columns of `labels`, planes of `lesion_masks`), independent of each other:

nodule         solid ball, 3 to 8 % of the image's width; a property of the patient
opacity        consolidation or ground glass, sometimes ending at a fissure
effusion       fluid with a meniscus, from a blunted angle to half of a lung, on one or both sides
pneumothorax   no vessels beyond a thin pleural line
cardiomegaly   cardiothoracic ratio above 0.5; a property of the patient; the mask is the heart

They are for trying out software. They do not show how well a model reads real radiographs.
"""


@ordinary()
def make_chest_phantoms(
    n_patients: int = 100,
    *,
    images_per_patient: int = 2,
    image_size: int = 128,
    prevalence: float | Sequence[float] = 0.3,
    return_masks: bool = True,
    random_state: int | np.random.RandomState | None = None,
) -> Radiographs:
    """Make synthetic frontal chest radiographs with findings, masks and patients.

    Split them by `groups`: images of one patient share their anatomy.

    Parameters
    ----------
    n_patients : int, default=100
        Number of patients. The first patients do not depend on it.
    images_per_patient : int, default=2
        Number of images per patient.
    image_size : int, default=128
        Side of the square images in pixels, at least 32.
    prevalence : float or sequence of 5 floats, default=0.3
        Probability of each finding, in [0, 1], in the order of `label_names`. With the same
        `random_state`, another prevalence only adds or removes findings: 0 and 1 give the same
        patients without any and with all findings.
    return_masks : bool, default=True
        Whether to return the masks, which take 6 bytes per pixel.
    random_state : int, RandomState instance or None, default=None
        Seed. The same integer gives identical arrays, on every processor and system, and with every
        supported version of NumPy.

    Returns
    -------
    data : Radiographs
        ``n = n_patients * images_per_patient`` images, without split and table, with

        images : ndarray of uint8, shape (n, image_size, image_size)
            Bright is dense, as radiologists view them.
        labels : ndarray of uint8, shape (n, 5)
            nodule, opacity, effusion, pneumothorax, cardiomegaly; none is unknown.
        groups : ndarray of int64, shape (n,)
            Patients, from 0.
        lesion_masks : ndarray of bool, shape (n, 5, image_size, image_size)
            Where each finding is; for cardiomegaly, the heart. Empty if and only if the label is 0.
        lung_masks : ndarray of bool, shape (n, image_size, image_size)
            Both lungs including diseased parts, without heart and mediastinum.
        DESCR : str
            Description of the images.

    Raises
    ------
    ValueError
        If a count is below 1, `image_size` is below 32, or a prevalence is outside [0, 1].

    See Also
    --------
    load_nih : Real radiographs, with some of these findings.

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
    seed = int(check_random_state(random_state).randint(np.iinfo(np.int32).max, dtype=np.int64))

    m, n = images_per_patient, n_patients * images_per_patient
    shape = (image_size, image_size)
    data = Radiographs(
        images=np.empty((n, *shape), np.uint8),
        labels=np.empty((n, len(FINDINGS)), np.uint8),
        label_names=list(FINDINGS),
        groups=np.repeat(np.arange(n_patients, dtype=np.int64), m),
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
    """Make images, labels, lesion masks and lung masks of the `m` images of one patient."""
    body, disease, film = (np.random.PCG64(child) for child in source.spawn(3))
    p, points, pose = draw(body, PATIENT), draw_vessels(body), draw(body, POSE, m)
    findings = draw(disease, LASTING) | draw(disease, PASSING, m)
    findings = {name: np.broadcast_to(value, (m, 1, 1)) for name, value in findings.items()}
    lasting = [name in ("nodule", "cardiomegaly") for name in FINDINGS]
    lots = np.where(
        lasting, uniforms(disease, (len(FINDINGS),)), uniforms(disease, (m, len(FINDINGS)))
    )
    present = lots < rates
    exposure, framing = draw(film, EXPOSURE, m), draw(film, FRAME, m)
    texture = smooth_noise(film, m, size, 14)
    noise = normals(film, (m, size, size))

    enlarged = present[:, FINDINGS.index("cardiomegaly"), None, None]
    chest = build_chest(p, pose, enlarged, size)
    vessels = vessel_field(points, p, pose, size)
    tissue, lesions = add_findings(chest, present, findings, vessels, texture, p)
    field = frame(chest.lung, framing)
    images = develop(expose(tissue, exposure, noise), field, chest.lung, exposure)
    mark(images, framing)
    gray = 244 * images + exposure["brightness"] * (images > 0.02) + 4
    gray[~field] = 0
    lesions &= field[:, None]
    return np.clip(gray, 0, 255).astype(np.uint8), present, lesions, chest.lung
