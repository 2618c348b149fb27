"""Blood vessels in the lungs of a synthetic chest."""

import math

import numpy as np

from otcxr_sk.datasets.phantoms._anatomy import CM, Values, to_pixels
from otcxr_sk.datasets.phantoms._exact import blur, cos, normals, sin, uniforms

# Radii with which vessels are drawn, in body units.
_RADII = (0.024, 0.013, 0.007)


def draw_vessels(bits: np.random.PCG64) -> np.ndarray:
    """Draw branching vessels of both lungs, as points in the coordinates of a lung.

    Returns
    -------
    ndarray of float32, shape (4, k)
        Distance from the mediastinum (0) to the chest wall (1), height from the apex (0) to the
        dome (1), radius in body units, and side (-1 or 1).
    """
    steps = np.arange(10) / 10
    points = []
    for sign in (-1.0, 1.0):
        n = 9
        angle = -1.45 + 0.35 * np.arange(n) + 0.12 * normals(bits, (n,))
        x = uniforms(bits, (n,), -0.03, 0.07)
        y = 0.60 - 0.03 * sign + 0.06 * normals(bits, (n,))
        radius = uniforms(bits, (n,), 0.014, 0.022)
        for _ in range(5):
            length = uniforms(bits, (n,), 0.10, 0.21) * np.where(np.abs(angle) > 0.9, 0.85, 1)
            bent = angle[:, None] + 0.35 * normals(bits, (n, 1)) * steps
            px = x[:, None] + length[:, None] * steps * cos(bent)
            py = y[:, None] + 0.75 * length[:, None] * steps * sin(bent)
            thinning = radius[:, None] * (1 - 0.25 * steps)
            points.append(np.stack([px, py, thinning, np.full_like(px, sign)]).reshape(4, -1))
            spread = uniforms(bits, (n,), 0.15, 0.5)
            x, y = np.repeat(np.stack([px[:, -1], py[:, -1]]), 2, axis=1)
            angle = np.stack([bent[:, -1] - spread, bent[:, -1] + spread], axis=1).ravel()
            radius = np.repeat(radius * 0.68, 2) * uniforms(bits, (2 * n,), 0.75, 1.1)
            n *= 2
        # Vessels that run along the ray look like small nodules.
        low, high = np.array([(0.1, 0.3, 0.008, sign), (0.8, 0.95, 0.015, sign)])
        points.append(np.repeat(uniforms(bits, (8, 4), low, high).T, 4, axis=1))
    return np.concatenate(points, axis=1).astype(np.float32)


def vessel_field(points: np.ndarray, p: Values, pose: Values, image_size: int) -> np.ndarray:
    """Return the path length through the vessels, float32 (m, h, w), in cm."""
    a, t, radius, sign = points
    w = p["half_width"][:, :, 0]
    apex, dome = p["apex"][:, :, 0], (p["dome"] + pose["breath"])[:, :, 0]
    y = apex + t * (dome - apex) + 0.05
    x = sign * w * (0.22 + 0.72 * a)
    column, row = to_pixels(x, y, pose, p, image_size)
    # An extra pixel on each side collects what falls outside of the image.
    wide, m, pixel = image_size + 2, len(column), 2 / image_size
    c, r = np.clip(column + 1, 0, wide - 1.01), np.clip(row + 1, 0, wide - 1.01)
    c0, r0 = c.astype(np.intp), r.astype(np.intp)
    c, r = c - c0, r - r0
    # The peak of a Gaussian ridge is the diameter of the vessel; points are about 0.012 apart.
    radii = np.array(_RADII)
    # The nearest on a logarithmic scale.
    level = (np.square(radius)[:, None] < radii[:-1] * radii[1:]).sum(axis=1)
    mass = 2 * CM * radius * radii[level] * 2.5 * 0.012 / (pixel * pixel)
    index = level * (m * wide * wide) + (np.arange(m)[:, None] * wide + r0) * wide + c0
    at = np.stack([index, index + 1, index + wide, index + wide + 1])
    share = mass * np.stack([(1 - c) * (1 - r), c * (1 - r), (1 - c) * r, c * r])
    shape = (len(_RADII), m, wide, wide)
    total = np.bincount(at.ravel(), share.ravel(), minlength=math.prod(shape))
    dots = total.astype(np.float32).reshape(shape)[:, :, 1:-1, 1:-1]
    field = np.zeros_like(dots[0])
    for some, width in zip(dots, _RADII, strict=True):
        field += blur(some, width / pixel, truncate=2)
    return field * p["vessel_cm"]
