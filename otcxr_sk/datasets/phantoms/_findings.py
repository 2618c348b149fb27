"""Findings of a synthetic chest: their effect on the path lengths, and their masks."""

import numpy as np

from otcxr_sk.datasets.phantoms._anatomy import CM, Chest, Range, Values, bump, step

FINDINGS = ("nodule", "opacity", "effusion", "pneumothorax", "cardiomegaly")

# Severity and place. They are drawn for every patient, whether the finding is present or not, so
# that presence changes nothing else. The first table belongs to the patient.
LASTING: dict[str, Range] = {
    "nodule_side": (-1, 1),
    "nodule_row": (0.12, 0.92),
    "nodule_column": (0.12, 0.88),
    "nodule_diameter": (0.062, 0.135),
    "nodule_density": (0.9, 1.6),
}
# These change from one image to the next.
PASSING: dict[str, Range] = {
    "opacity_side": (-1, 1),
    "opacity_row": (0.15, 0.92),
    "opacity_column": (0.15, 0.85),
    "opacity_width": (0.12, 0.25),
    "opacity_height": (0.10, 0.25),
    "opacity_density": (0.28, 0.75),
    "opacity_fissure": (-1.0, 0.6),
    "effusion_side": (-1, 1),
    "effusion_both": (0, 1),
    "effusion_level": (0.0, 1.0),
    "effusion_other": (0.4, 1.0),
    "effusion_rise": (0.22, 0.42),
    "air_side": (-1, 1),
    "air_depth": (0.06, 0.18),
    "air_apical": (0.02, 0.16),
    "air_line": (0.25, 0.6),
}


def _place(lung: np.ndarray, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the index of one pixel per lung (m, h, w): at shares of its height and width there."""
    rows, columns = [], []
    for one, share, across in zip(lung, row.ravel(), column.ravel(), strict=True):
        filled = np.flatnonzero(one.any(axis=1))
        i = filled[int(share * len(filled))]
        line = np.flatnonzero(one[i])
        rows.append(i)
        columns.append(line[int(across * len(line))])
    return np.arange(len(lung)), np.array(rows), np.array(columns)


def add_findings(
    chest: Chest,
    present: np.ndarray,
    f: Values,
    vessels: np.ndarray,
    texture: np.ndarray,
    p: Values,
) -> tuple[np.ndarray, np.ndarray]:
    """Add the findings that are present to the chest.

    Parameters
    ----------
    chest : Chest
        Its heart is already enlarged where cardiomegaly is present.
    present : ndarray of bool, shape (m, 5)
    f : dict
        Values drawn from `LASTING` and `PASSING`.
    vessels, texture : ndarray of float32, shape (m, h, w)
        Path length in vessels, in cm; smooth noise of unit variance.
    p : dict
        Values drawn from `PATIENT`.

    Returns
    -------
    tissue : ndarray of float32, shape (m, h, w)
        Path length through all of the chest, in cm of water.
    masks : ndarray of bool, shape (m, 5, h, w)
    """
    x, y, lung = chest.x, chest.y, chest.lung
    masks = np.zeros((len(x), len(FINDINGS), *x.shape[1:]), bool)
    share = p["lung_density"] * (1 + 0.05 * texture)
    solid = np.zeros_like(x)
    here = present.T[:, :, None, None]

    if present[:, 1].any():
        own = lung & (x * f["opacity_side"] > 0)
        place = _place(own, f["opacity_row"], f["opacity_column"])
        dx, dy = (axis - axis[place][:, None, None] for axis in (x, y))
        r = np.sqrt(
            np.square(dx / f["opacity_width"]) + np.square((dy + 0.3 * dx) / f["opacity_height"])
        )
        cloud = step(1.05 + 0.28 * texture - r, 1.3)
        # A fissure at the end of the lobe makes one sharp edge.
        fissure = np.where(f["opacity_fissure"] > 0, f["opacity_fissure"], 9)
        cloud *= step(fissure * f["opacity_height"] - dy - 0.2 * dx, 0.03) * here[1]
        cloud *= x * f["opacity_side"] > 0
        solid = np.maximum(solid, cloud * f["opacity_density"])
        masks[:, 1] = (cloud > 0.3) & own
        masks[:, 1][place] |= present[:, 1]

    if present[:, 2].any():
        big = np.where(x * f["effusion_side"] > 0, np.float32(1), f["effusion_other"])
        wet = (x * f["effusion_side"] > 0) | (f["effusion_both"] > 0.7)
        # Small effusions are more common than large ones.
        level = (0.05 + 0.36 * f["effusion_level"] * np.sqrt(f["effusion_level"])) * big
        reach = np.clip(chest.side / chest.lateral, 0, 1)
        # Where the diaphragm meets the chest wall.
        arch = 0.58 * 0.58 - np.square(chest.side / p["half_width"] - 0.42)
        corner = chest.floor + p["dome_curve"] * arch
        climb = f["effusion_rise"] * np.sqrt(level)
        surface = corner - level - climb * (np.square(np.square(reach)) * reach - 0.15)
        fluid = step(y - surface, 0.035) * wet * here[2]
        solid = np.maximum(solid, fluid * 0.97)
        masks[:, 2] = (fluid > 0.5) & lung
        # In a small image, the blunted angle may be less than a pixel: mark the lowest one.
        own = lung & (x * f["effusion_side"] > 0)
        lowest = _place(own, np.full(len(x), 1 - 1e-6), np.full(len(x), 0.5))
        masks[:, 2][lowest] |= present[:, 2]

    gone = np.zeros_like(x)
    line = np.zeros_like(x)
    if present[:, 3].any():
        own = lung & (x * f["air_side"] > 0)
        high = np.clip((chest.floor - y) / (chest.floor - p["apex"]), 0, 1)
        depth = f["air_depth"] * (0.25 + high) + f["air_apical"] * (np.square(high) * high)
        beyond = depth - chest.wall
        side = own * here[3]
        gone = step(beyond, 0.012) * side
        line = f["air_line"] * bump(beyond, 0.009) * side
        masks[:, 3] = (beyond > 0) & side.astype(bool)

    tissue = chest.body - chest.air * (1 - share) * (1 - solid)
    tissue += vessels * (1 - gone) * (1 - solid) * np.minimum(chest.air / 4, 1)
    tissue -= chest.air * share * gone * 0.75
    tissue += line + chest.bone

    if present[:, 0].any():
        own = lung & (x * f["nodule_side"] > 0)
        place = _place(own, f["nodule_row"], f["nodule_column"])
        radius = f["nodule_diameter"] / 2
        dx, dy = (axis - axis[place][:, None, None] for axis in (x, y))
        r = np.sqrt(np.square(dx) + np.square(dy)) / radius
        ball = np.sqrt(np.maximum(1 - np.square(r), 0)) * here[0]
        thick = CM * f["nodule_diameter"] * f["nodule_density"]
        tissue += thick * ball * (1 - solid)
        masks[:, 0] = (r < 1) & here[0]

    masks[:, 4] = chest.heart & here[4]
    return tissue, masks
