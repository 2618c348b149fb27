"""From path lengths to an image: scatter, noise, blur, response, collimator and marker."""

from functools import lru_cache

import numpy as np

from otcxr_sk.datasets.phantoms._anatomy import Range, Values, bump
from otcxr_sk.datasets.phantoms._exact import blur, exp, log, quantile, transform

EXPOSURE: dict[str, Range] = {
    "attenuation": (0.17, 0.23),  # per cm of water
    "scatter": (0.05, 0.55),
    "photons": (8.4, 10.6),  # log of the count per pixel without a patient, at 128 pixels a side
    "blur": (0.25, 0.75),  # in pixels, at 128 pixels a side
    "toe": (0.35, 0.85),
    "white": (-0.10, 0.30),
    "gamma": (0.75, 1.25),
    "shoulder": (0.0, 1.0),
    "heel": (-0.12, 0.12),
    "brightness": (-14, 10),
    "grain": (0.5, 2.5),
}

FRAME: dict[str, Range] = {
    **dict.fromkeys(("collimated", "left", "right", "top", "bottom"), (0, 1)),
    **dict.fromkeys(("marker", "marker_letter"), (0, 1)),
    "marker_x": (0.03, 0.14),
    "marker_y": (0.03, 0.30),
    "marker_size": (0.035, 0.06),
    "marker_tone": (0.75, 1.1),
}

_LETTERS = {
    "L": ("#...", "#...", "#...", "#...", "#...", "####"),
    "R": ("###.", "#..#", "###.", "#.#.", "#..#", "#..#"),
}


@lru_cache(maxsize=16)
def _blur_matrix(size: int, sigma: float) -> np.ndarray:
    at = np.arange(size, dtype=np.float32)
    weights = bump(at[:, None] - at, sigma)
    return weights / np.cumsum(weights, axis=1)[:, -1:]


def expose(tissue: np.ndarray, e: Values, noise: np.ndarray) -> np.ndarray:
    """Return the log attenuation, float32 (m, h, w), behind path lengths (m, h, w) in cm."""
    size = tissue.shape[-1]
    primary = exp(-e["attenuation"] * tissue)
    scattered = transform(_blur_matrix(size, 0.13 * size), np.minimum(primary, 0.25))
    signal = primary + e["scatter"] * scattered * 0.35
    for k, sigma in enumerate(e["blur"].ravel().tolist()):
        signal[k : k + 1] = blur(signal[k : k + 1], sigma * size / 128, truncate=2.5)
    signal += np.sqrt(signal * exp(-e["photons"])) * (size / 128) * noise
    return -log(np.maximum(signal, 1e-4))


def develop(density: np.ndarray, field: np.ndarray, air: np.ndarray, e: Values) -> np.ndarray:
    """Window the log attenuation and apply the response of a film.

    The window follows the median of the lungs (`air`) and the bright end of the `field` of view,
    like automatic exposure, so that no finding shows in the mean of the image.

    Returns
    -------
    ndarray of float32, shape (m, h, w)
        In [0, 1], 0 is black.
    """
    size = density.shape[-1]
    out = np.empty_like(density)
    down = np.arange(1 - size, size, 2, dtype=np.float32)[:, None] / (size - 1)
    for k, (image, inside) in enumerate(zip(density, field, strict=True)):
        q = {name: float(value[k, 0, 0]) for name, value in e.items()}
        few = image[::3, ::3]
        middle = quantile(few[air[k, ::3, ::3]], 0.5)
        high = quantile(few[inside[::3, ::3]], 0.97)
        low, high = middle - q["toe"] * (high - middle), high + q["white"] * (high - middle)
        t = np.clip((image - low) / (high - low) + q["heel"] * down * 0.5, 0, 1)
        t = exp(q["gamma"] * log(np.maximum(t, 1e-20)))
        s = t * t * (3 - 2 * t)
        out[k] = t + q["shoulder"] * (s - t)
    return out


def frame(lung: np.ndarray, c: Values) -> np.ndarray:
    """Return the collimated field of view, bool (m, h, w); it never cuts the lungs."""
    field = np.ones(lung.shape, bool)
    size = lung.shape[-1]
    for k in range(len(field)):
        if c["collimated"][k, 0, 0] > 0.35:
            continue
        rows, columns = np.flatnonzero(lung[k].any(axis=1)), np.flatnonzero(lung[k].any(axis=0))
        room = {
            "left": columns[0],
            "right": size - 1 - columns[-1],
            "top": rows[0],
            "bottom": size - 1 - rows[-1],
        }
        cut = {name: int(0.7 * float(c[name][k, 0, 0]) * space) for name, space in room.items()}
        field[k, : cut["top"]] = False
        field[k, size - cut["bottom"] :] = False
        field[k, :, : cut["left"]] = False
        field[k, :, size - cut["right"] :] = False
    return field


def mark(images: np.ndarray, c: Values) -> None:
    """Draw a lead letter, L or R, beside the shoulder of that side, in place."""
    size = images.shape[-1]
    for k, one in enumerate(images):
        q = {name: float(value[k, 0, 0]) for name, value in c.items()}
        if q["marker"] > 0.8:
            continue
        letter = "L" if q["marker_letter"] < 0.6 else "R"
        height = max(5, round(q["marker_size"] * size))
        width = max(4, round(height * 0.7))
        drawn = np.array([list(line) for line in _LETTERS[letter]]) == "#"
        glyph = drawn[np.arange(height)[:, None] * 6 // height, np.arange(width) * 4 // width]
        top, left = round(q["marker_y"] * size), round(q["marker_x"] * size)
        if letter == "L":
            left = size - left - width
        box = one[top : top + height, left : left + width]
        box += glyph[: box.shape[0], : box.shape[1]] * (q["marker_tone"] - box)
