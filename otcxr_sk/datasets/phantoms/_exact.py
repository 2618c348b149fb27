"""Arithmetic that gives the same bits on every processor, and with every version of NumPy.

IEEE 754 defines the results of ``+ - * /`` and `sqrt`, but not of `exp`, `log` and `cos`, and the
sum of many numbers depends on their order, which differs between processors, numbers of threads and
libraries. Here, functions are series evaluated in a fixed order, one operation on all of an array
at a time, so that no compiler merges two; matrices multiply integers, whose sums are exact in any
order; random numbers are made of the bits of a generator, which NumPy promises not to change.
"""

import math

import numpy as np

_LN2 = 0.6931471805599453
_EXP = [1 / math.factorial(n) for n in range(8)]
_LOG = [2 / n for n in range(1, 10, 2)]
_SIN = [(-1) ** n / math.factorial(2 * n + 1) for n in range(7)]


def _series(x: np.ndarray, factors: list[float]) -> np.ndarray:
    out = np.full_like(x, factors[-1])
    for factor in factors[-2::-1]:
        out *= x
        out += factor
    return out


def exp(x: np.ndarray) -> np.ndarray:
    """Return e to the power of float32 `x`; what is below 1e-28 becomes it."""
    x = np.clip(x, -64, 64)
    k = np.rint(x * (1 / _LN2))
    # The first part of ln 2 is so short that its multiples are exact.
    x -= k * 0.693359375
    x -= k * (_LN2 - 0.693359375)
    out = _series(x, _EXP)
    out *= ((k.astype(np.int32) + 127) << 23).view(np.float32)
    return out


def log(x: np.ndarray) -> np.ndarray:
    """Return the natural logarithm of positive, normal float32 `x`."""
    bits = np.asarray(x, np.float32).view(np.int32)
    k = (bits - 0x3F3504F3) >> 23  # x is 2 ** k times a number between sqrt(0.5) and sqrt(2)
    x = (bits - (k << 23)).view(np.float32)
    s = (x - 1) / (x + 1)
    return s * _series(s * s, _LOG) + k.astype(np.float32) * _LN2


def cos(x: np.ndarray) -> np.ndarray:
    """Return the cosine of float32 `x` to 1e-6, for a few turns."""
    turns = x * (0.5 / math.pi)
    # As a sine of at most a quarter of a turn.
    x = (0.25 - np.abs(turns - np.rint(turns))) * (2 * math.pi)
    return x * _series(x * x, _SIN)


def sin(x: np.ndarray) -> np.ndarray:
    """Return the sine of float32 `x` to 1e-6, for a few turns."""
    return cos(x - 0.5 * math.pi)


def uniforms(
    bits: np.random.PCG64,
    shape: tuple[int, ...],
    low: float | np.ndarray = 0.0,
    high: float | np.ndarray = 1.0,
) -> np.ndarray:
    """Draw float64 from [low, high)."""
    return low + (high - low) * ((bits.random_raw(shape) >> 11) * 2.0**-53)


def normals(bits: np.random.PCG64, shape: tuple[int, ...]) -> np.ndarray:
    """Draw float32 from the standard normal distribution, by Box and Muller's method."""
    size = math.prod(shape)
    raw = bits.random_raw((size + 1) // 2)
    # 24 bits fit into float32.
    distance, turns = (raw >> 40).astype(np.float32), (raw >> 16 & 0xFFFFFF).astype(np.float32)
    radius = np.sqrt(-2 * log((distance + 1) * 2.0**-24))
    angle = turns * (math.tau * 2.0**-24)
    return np.concatenate([radius * cos(angle), radius * sin(angle)])[:size].reshape(shape)


def transform(matrix: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return ``matrix @ images @ matrix.T`` to 1e-6, float32 (m, n, n).

    Entries are rounded to multiples of 2**-20. As long as their sums are below 2**12, these are
    integers below 2**53, which float64 holds: rounding never sees the order of the sum.
    """
    matrix, images = (np.rint(a.astype(np.float64) * 2.0**20) for a in (matrix, images))
    half = np.rint(matrix @ images * 2.0**-20)
    return (half @ matrix.T * 2.0**-40).astype(np.float32)


def blur(images: np.ndarray, sigma: float, truncate: float) -> np.ndarray:
    """Convolve float32 images (m, h, w) with a Gaussian, mirrored at the border."""
    radius = int(truncate * sigma + 0.5)
    kernel = exp(-0.5 * np.square(np.arange(radius + 1, dtype=np.float32) / sigma))
    kernel /= 2 * np.cumsum(kernel)[-1:] - 1
    for _ in "yx":
        n = images.shape[1]
        wide = np.pad(images, ((0, 0), (radius, radius), (0, 0)), "symmetric")
        images = kernel[0] * wide[:, radius : radius + n]
        for k in range(1, radius + 1):
            images += kernel[k] * (wide[:, radius - k :][:, :n] + wide[:, radius + k :][:, :n])
        images = images.swapaxes(1, 2)
    return images


def quantile(values: np.ndarray, share: float) -> float:
    """Return the quantile of a float32 array, between two of its values."""
    ordered = np.sort(values)
    at = share * (len(ordered) - 1)
    low, high = (float(ordered[k]) for k in (math.floor(at), math.ceil(at)))
    return low + (at - math.floor(at)) * (high - low)
