"""Phantoms are the same everywhere."""

import os
import re
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest

from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.datasets.phantoms import _exact

SEEDS = st.integers(0, 2**31 - 1)
# Checksums by image size and seed.
PUBLISHED = {(32, 0): 3069385643, (64, 1): 2140920631, (128, 2): 1638162123, (255, 3): 2873289331}


def checksum(image_size: int, seed: int) -> int:
    data = make_chest_phantoms(4, image_size=image_size, prevalence=0.5, random_state=seed)
    keys = ("images", "labels", "lesion_masks", "lung_masks")
    return crc32(b"".join(data[key].tobytes() for key in keys))


def test_pixels_masks_and_labels_are_the_published_ones():
    assert {arguments: checksum(*arguments) for arguments in PUBLISHED} == PUBLISHED


def optional_features() -> list[str]:
    """Return the instruction sets of this processor that NumPy can do without."""
    core = getattr(np, "_core", None) or np.core
    umath = core._multiarray_umath
    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]]


@pytest.mark.slow
def test_a_plain_processor_and_two_threads_give_the_same_bytes():
    subprocess.run(
        [sys.executable, __file__],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "NPY_DISABLE_CPU_FEATURES": ",".join(optional_features()),
            "OPENBLAS_CORETYPE": "Prescott",
            "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA",
            "OMP_NUM_THREADS": "2",
        },
        check=True,
    )


def test_nothing_is_used_whose_last_bit_is_not_defined():
    undefined = (
        r"exp|exp2|expm1|log|log2|log1p|sin|cos|tan|tanh|hypot|power|dot|einsum|convolve|fft"
    )
    undefined += r"|mean|std|var|median|quantile|percentile|linspace|linalg|random\.default_rng"
    for path in Path(_exact.__file__).parent.glob("*.py"):
        text = path.read_text()
        assert not re.findall(rf"np\.({undefined})\b|\bscipy\b", text), path
        if path.name != "_exact.py":
            assert not re.findall(r"\*\*[\d.(]| @ ", text), path


@given(seed=SEEDS, m=st.integers(1, 3), n=st.integers(2, 40), cells=st.integers(1, 40))
def test_products_of_matrices_do_not_depend_on_the_order_of_their_sums(seed, m, n, cells):
    rng = np.random.default_rng(seed)
    matrix, images = rng.normal(size=(n, cells)), rng.normal(size=(m, cells, cells))
    found = _exact.transform(matrix, images)
    order = rng.permutation(cells)
    again = _exact.transform(matrix[:, order], images[:, order][:, :, order])
    np.testing.assert_array_equal(found, again)
    np.testing.assert_allclose(found, matrix @ images @ matrix.T, atol=1e-3)


def test_functions_are_those_of_numpy_to_the_precision_of_float32():
    x = np.linspace(-60, 60, 100001, dtype=np.float32)
    positive = np.exp(x)
    np.testing.assert_allclose(_exact.exp(x), np.exp(x.astype(float)), rtol=2e-7)
    np.testing.assert_allclose(_exact.log(positive), np.log(positive.astype(float)), rtol=2e-7)
    angle = x / 10
    np.testing.assert_allclose(_exact.cos(angle), np.cos(angle), atol=1e-6)
    np.testing.assert_allclose(_exact.sin(angle), np.sin(angle), atol=1e-6)


def test_random_numbers_have_their_distributions():
    uniform = _exact.uniforms(np.random.PCG64(0), (100_000,), 2, 5)
    np.testing.assert_array_equal(uniform, np.random.default_rng(0).uniform(2, 5, 100_000))
    normal = _exact.normals(np.random.PCG64(0), (3, 33_333))
    assert kstest(normal.ravel(), "norm").pvalue > 0.01


@pytest.mark.parametrize("sigma", [0.1, 0.75, 3])
def test_blurred_images_are_those_of_scipy(sigma):
    images = _exact.normals(np.random.PCG64(0), (2, 20, 31))
    expected = gaussian_filter(images, sigma, axes=(1, 2), truncate=2)
    np.testing.assert_allclose(_exact.blur(images, sigma, truncate=2), expected, atol=1e-6)


@given(seed=SEEDS, size=st.integers(1, 50), share=st.floats(0, 1))
def test_quantiles_are_those_of_numpy(seed, size, share):
    values = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    assert _exact.quantile(values, share) == pytest.approx(np.quantile(values, share), abs=1e-6)


if __name__ == "__main__":
    test_pixels_masks_and_labels_are_the_published_ones()
