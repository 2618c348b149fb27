"""Anatomy of a synthetic chest: path lengths of tissue, air and bone along the ray of each pixel.

Body coordinates: x from the midline toward the patient's left (the right of the image), y downward,
in units of half the image's side (about 18 cm). Path lengths are in cm of water.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from otcxr_sk.datasets.phantoms._exact import cos, exp, normals, sin, transform, uniforms

CM = 18.0  # one unit of body coordinates

Range = tuple[float, float]
Values = dict[str, np.ndarray]

# Traits of a patient. Lengths are in body units unless noted otherwise.
PATIENT: dict[str, Range] = {
    "size": (1.0, 1.17),
    "half_width": (0.62, 0.72),
    "apex": (-0.78, -0.68),
    "dome": (0.30, 0.46),
    "left_lower": (0.02, 0.09),
    "dome_curve": (0.50, 0.90),
    "fat": (0.05, 0.20),
    "depth_cm": (17.0, 24.0),
    "lung_share": (0.64, 0.74),
    "lung_density": (0.22, 0.31),
    "rib_spacing": (0.115, 0.142),
    "rib_bow": (0.32, 0.60),
    "rib_phase": (0.0, 1.0),
    "front_slope": (0.50, 0.80),
    "rib_cm": (0.7, 1.5),
    "rib_width": (0.42, 0.58),
    "clavicle": (-0.56, -0.44),
    "clavicle_slope": (0.10, 0.32),
    "ctr": (0.40, 0.49),
    "big_ctr": (0.515, 0.63),
    "heart_shear": (0.10, 0.34),
    "heart_height": (0.30, 0.37),
    "mediastinum": (0.100, 0.145),
    "knob": (0.03, 0.085),
    "cava": (0.0, 0.045),
    "rib_drift": (-0.5, 0.5),
    "knob_y": (-0.34, -0.24),
    "trachea": (0.026, 0.038),
    "hilum": (0.4, 1.4),
    "vessel_cm": (1.1, 2.2),
    "breast": (-0.8, 1.0),
    "breast_y": (0.08, 0.26),
    "bubble": (0.05, 0.15),
    "bubble_x": (0.25, 0.42),
    "arm": (0.80, 0.95),
    "arm_spread": (0.05, 0.35),
    "shoulder": (-0.66, -0.52),
    "scapula": (0.50, 0.74),
    "scoliosis": (-0.03, 0.03),
}

# What changes between two images of one patient.
POSE: dict[str, Range] = {
    "shift_x": (-0.06, 0.06),
    "shift_y": (-0.07, 0.07),
    "tilt": (-0.06, 0.06),
    "zoom": (0.94, 1.05),
    "breath": (-0.09, 0.06),
    "turn": (-0.03, 0.03),
    "arm_lift": (-0.08, 0.08),
}


def draw(bits: np.random.PCG64, ranges: dict[str, Range], size: int = 1) -> Values:
    """Draw each named value uniformly from its range, float32 of shape (size, 1, 1)."""
    low, high = np.array(list(ranges.values()), float).T[:, :, None]
    drawn = uniforms(bits, (len(ranges), size), low, high).astype(np.float32)
    return {name: value[:, None, None] for name, value in zip(ranges, drawn, strict=True)}


@lru_cache(maxsize=16)
def _upsample_matrix(size: int, cells: int) -> np.ndarray:
    centers = (np.arange(size, dtype=np.float32) + 0.5) / size * (cells - 1)
    weights = bump(centers[:, None] - np.arange(cells, dtype=np.float32), 0.6)
    return weights / np.sqrt(np.cumsum(np.square(weights), axis=1)[:, -1:])


def smooth_noise(bits: np.random.PCG64, m: int, size: int, cells: int) -> np.ndarray:
    """Draw noise (m, size, size) of unit variance that varies over `size / cells` pixels."""
    return transform(_upsample_matrix(size, cells), normals(bits, (m, cells, cells)))


def step(x: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Step smoothly from 0 to 1 around ``x = 0``, over `width`."""
    t = np.asarray(x / width)
    t += 0.5
    np.clip(t, 0, 1, out=t)
    rest = -2 * t
    rest += 3
    rest *= t
    rest *= t
    return rest


def chord(depth: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
    """Return the relative path length through a rounded solid, `depth` inside its outline."""
    e = np.asarray(depth / radius)
    np.clip(e, 0, 1, out=e)
    e *= 2 - e
    return np.sqrt(e, out=e)


def bump(x: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Evaluate a Gaussian of height 1 and standard deviation `width`."""
    e = np.asarray(x / width)
    e *= e
    e *= -0.5
    return exp(e)


@dataclass
class Chest:
    """Anatomy of one patient in m images: float32 arrays (m, h, w) unless noted otherwise."""

    x: np.ndarray
    y: np.ndarray
    side: np.ndarray  # |x|
    lateral: np.ndarray  # |x| of the lateral border of the lung
    wall: np.ndarray  # distance from the chest wall, positive inside the lung
    floor: np.ndarray  # y of the diaphragm
    body: np.ndarray  # soft tissue, cm
    bone: np.ndarray  # cm of water, in addition to the soft tissue
    air: np.ndarray  # lung, cm
    heart: np.ndarray  # bool
    lung: np.ndarray  # bool, outside heart and mediastinum


def body_coordinates(pose: Values, p: Values, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the body coordinates x and y (m, h, w) of the pixel centers."""
    axis = (np.arange(image_size, dtype=np.float32) + 0.5) * np.float32(2 / image_size) - 1
    u = axis[None, None, :] - pose["shift_x"]
    v = axis[None, :, None] - pose["shift_y"]
    scale = pose["zoom"] * p["size"]
    c, s = cos(pose["tilt"]) / scale, sin(pose["tilt"]) / scale
    return c * u + s * v, c * v - s * u


def to_pixels(
    x: np.ndarray, y: np.ndarray, pose: Values, p: Values, image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Invert `body_coordinates`: return the columns and rows of points (m, k)."""
    q = {name: value[:, :, 0] for name, value in pose.items()}
    scale = q["zoom"] * p["size"][:, :, 0]
    c, s = cos(q["tilt"]) * scale, sin(q["tilt"]) * scale
    u, v = c * x - s * y + q["shift_x"], s * x + c * y + q["shift_y"]
    return (u + 1) * (image_size / 2) - 0.5, (v + 1) * (image_size / 2) - 0.5


def build_chest(p: Values, pose: Values, enlarged: np.ndarray, image_size: int) -> Chest:
    """Evaluate the anatomy of one patient on the pixels of all of the patient's images.

    Parameters
    ----------
    p, pose : dict
        Values drawn from `PATIENT` (size 1) and `POSE` (size m).
    enlarged : ndarray of bool, shape (m, 1, 1)
        Whether the heart is enlarged (cardiothoracic ratio above 0.5).
    image_size : int
        Side of the images in pixels.
    """
    x, y = body_coordinates(pose, p, image_size)
    side, right = np.abs(x), x < 0
    w = p["half_width"]

    # Lungs: chest wall, apex, diaphragm.
    rise = np.clip((y - p["apex"]) / 0.75, 0, 1)
    lateral = w * (0.52 + 0.48 * np.sqrt(rise * (2 - rise)))
    wall = np.minimum(lateral - side, 0.8 * (y - p["apex"] - 3 * np.square(side - 0.4 * w)))
    level = p["dome"] + pose["breath"] + np.where(right, 0, p["left_lower"])
    floor = level + p["dome_curve"] * np.square(side / w - 0.42)
    above = floor - y
    lung_cm = p["depth_cm"] * p["lung_share"]
    inside = chord(wall, 0.36 * w) * step(side - 0.07, 0.06)
    # The lung reaches further down behind the dome of the diaphragm.
    recess = 0.16 * step(above + 0.13, 0.2)
    air = lung_cm * inside * np.maximum(step(above, 0.025), recess)

    # Heart: a sheared ellipse whose width is exactly ctr times the inner width of the thorax.
    width = np.where(enlarged, p["big_ctr"], p["ctr"] - 0.25 * pose["breath"]) * w
    b = p["heart_height"] * (1 + 0.07 * enlarged.astype(np.float32))
    a = np.sqrt(np.maximum(np.square(width) - np.square(p["heart_shear"] * b), 0.02))
    center_y = p["dome"] + pose["breath"] + 0.10 - b * 0.72
    center_x = width * 0.32 + pose["turn"]
    dy = y - center_y
    r = np.sqrt(np.square((x - center_x - p["heart_shear"] * dy) / a) + np.square(dy / b))
    heart_share = chord(1 - r, 0.45)
    heart = r < 1

    # Mediastinum: vena cava on one side, aortic knob and pulmonary trunk on the other.
    knob = p["knob"] * bump(y - p["knob_y"], 0.075) + 0.035 * bump(y - p["knob_y"] - 0.2, 0.09)
    half = (
        p["mediastinum"]
        + 0.05 * np.square(y + 0.15)
        + np.where(right, p["cava"] * bump(y + 0.2, 0.16), knob)
    )
    middle = pose["turn"] + p["scoliosis"] * sin(3 * y)
    center = half - np.abs(x - middle)
    air *= 1 - np.maximum(0.84 * heart_share, 0.93 * chord(center, 0.06))
    lung = (wall > 0) & (above > 0) & ~heart & (center < 0) & (side > 0.07)

    below = y - p["shoulder"]
    across = side - p["arm"] - np.maximum(below, 0) * (p["arm_spread"] + pose["arm_lift"])
    body = _soft_tissue(p, y, side, across, below)
    bone = _bones(p, y, side, lateral, np.abs(x - middle))
    bone += _shoulder_bones(p, pose, y, side, across, below)
    neck = step(-0.14 - y, 0.10)
    pushed = 0.012 * bump(y + 0.3, 0.25)
    tracheal = chord(p["trachea"] - np.abs(x - middle + pushed), 0.03)
    body -= 2.6 * tracheal * neck
    # Hila: soft shadows beside the mediastinum, higher on the left.
    hilum_y = 0.5 * pose["breath"] + np.where(right, np.float32(-0.02), np.float32(-0.07))
    body += p["hilum"] * bump(side - p["mediastinum"] - 0.05, 0.055) * bump(y - hilum_y, 0.10)
    # Gas in the stomach, under the left dome.
    gas_r = np.square((x - p["bubble_x"]) / (1.5 * p["bubble"])) + np.square(
        (y - level - 0.05 - p["bubble"]) / p["bubble"]
    )
    body -= CM * p["bubble"] * np.sqrt(np.maximum(1 - gas_r, 0)) * step(-above, 0.03)
    return Chest(x, y, side, lateral, wall, floor, body, bone, air, heart, lung)


def _soft_tissue(
    p: Values, y: np.ndarray, side: np.ndarray, across: np.ndarray, below: np.ndarray
) -> np.ndarray:
    chest = p["half_width"] * 1.06 + p["fat"] + 0.05 * y
    girdle = p["arm"] + 0.10
    flank = chest + (girdle - chest) * step(p["shoulder"] + 0.26 - y, 0.45)
    top = -0.95 + 0.42 * np.maximum(side - 0.2, 0)
    thick = p["depth_cm"] * (0.92 + 0.16 * y)
    body = thick * chord(flank - side, 0.42) * chord(y - top, 0.55)
    neck = 10 * chord(0.27 - side, 0.27)
    to_arm = np.sqrt(np.square(across) + np.square(np.minimum(below, 0)))
    arm = 8.5 * chord(0.20 - to_arm, 0.2)
    body = np.maximum(np.maximum(body, neck * step(-0.4 - y, 0.3)), arm)
    # Breasts, if the draw is positive: their lower edge crosses the bases of the lungs.
    size = np.maximum(p["breast"], 0)
    r = np.square((side - 0.40) / 0.34) + np.square(
        (y - p["breast_y"]) / np.where(y > p["breast_y"], np.float32(0.26), np.float32(0.85))
    )
    return body + 3 * size * chord(1 - r, 0.9)


def _bones(
    p: Values, y: np.ndarray, side: np.ndarray, lateral: np.ndarray, spine: np.ndarray
) -> np.ndarray:
    reach = side / lateral
    cage = step(lateral + 0.035 - side, 0.03)
    # All ribs of one kind are one periodic function of a curved height.
    start = p["apex"] - 0.02 + p["rib_spacing"] * p["rib_phase"]
    # Spacing that drifts from top to bottom makes the rib cage less regular.
    start = start + 0.06 * p["rib_drift"] * sin(4 * y)
    back = (y - start - p["rib_bow"] * np.square(reach - 0.30)) / p["rib_spacing"]
    bow_end = p["rib_bow"] * 0.49
    front = (y - start - bow_end - p["front_slope"] * (1 - reach)) / (p["rib_spacing"] * 1.2)
    bone = p["rib_cm"] * _tubes(back, p["rib_width"]) * step(reach - 0.12, 0.1)
    bone += 0.5 * p["rib_cm"] * _tubes(front, p["rib_width"] * 1.15) * step(reach - 0.45, 0.25)
    bone *= step(p["dome"] + 0.30 - y, 0.3)
    bone *= cage * (1 + 0.8 * step(reach - 0.93, 0.16))

    # Spine with disks, pedicles at its edges.
    disks = 0.85 + 0.15 * cos(y * (2 * np.pi / 0.125))
    bone += 1.5 * chord(0.09 - spine, 0.09) * disks
    bone += 0.8 * bump(spine - 0.05, 0.016) * (1 - disks) * 3
    return bone


def _shoulder_bones(
    p: Values,
    pose: Values,
    y: np.ndarray,
    side: np.ndarray,
    across: np.ndarray,
    below: np.ndarray,
) -> np.ndarray:
    # Clavicle, scapula, humerus.
    s = side - 0.06
    line = p["clavicle"] - p["clavicle_slope"] * s - 0.05 * sin(s * 7)
    off = np.abs(y - line)
    shaft = step(0.030 - off, 0.014) * (0.7 + 0.6 * np.minimum(off / 0.03, 1))
    bone = 2.2 * shaft * step(s, 0.04) * step(0.78 - side, 0.08)
    blade = side - p["scapula"] - 0.28 * (y + 0.30) - pose["arm_lift"]
    height = step(y + 0.58, 0.15) * step(-0.02 - y, 0.12)
    bone += height * (
        0.30 * step(blade, 0.02) * step(0.30 - blade, 0.06) + 0.45 * bump(blade, 0.014)
    )
    head = np.sqrt(np.square(across + 0.03) + np.square(below + 0.01))
    bone += 2 * np.maximum(
        chord(0.05 - np.abs(across), 0.04) * step(below, 0.1),
        chord(0.095 - head, 0.07),
    )
    return bone


def _tubes(phase: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Draw ribs 1 to 10 as hollow tubes: `phase` counts them, `width` is a share of a period."""
    off = np.abs(phase - np.rint(phase)) * 2
    tube = step(width - off, 0.22) * (0.62 + np.square(off / width) * 0.5)
    return tube * ((phase > -0.5) & (phase < 10.5))
