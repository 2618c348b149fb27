"""The library works where BLAKE2, MD5 and SHA-1 are forbidden, as on machines in FIPS mode."""

import os
import subprocess
import sys
import textwrap

import pytest

SCRIPT = textwrap.dedent("""
    import hashlib

    usual = hashlib.new

    def new(name, *args, **options):
        if name.lower().replace("-", "") in ("blake2b", "blake2s", "md5", "sha1"):
            refuse()
        return usual(name, *args, **options)

    def refuse(*args, **options):
        raise ValueError("unsupported hash type")

    hashlib.new, hashlib.md5, hashlib.sha1 = new, refuse, refuse
    del hashlib.blake2b, hashlib.blake2s

    import numpy as np
    from PIL import Image
    from otcxr_sk import OTCXRPretrainer
    from otcxr_sk.datasets import find_near_duplicates
    from otcxr_sk.training import describe

    images = np.random.default_rng(0).integers(0, 256, (8, 40, 32), np.uint8)
    files = [f"{row}.png" for row in range(8)]
    for file, image in zip(files, images):
        Image.fromarray(image).save(file)
    def make(**parameters):
        settings = {"image_size": 32, "batch_size": 4, "random_state": 0, **parameters}
        return OTCXRPretrainer("test_resnet", epochs=2, cache="cache", **settings)

    fitted = make(checkpoint="run", num_workers=1).fit(files)
    again = make(checkpoint="run").fit(files)
    assert np.array_equal(again.weights_, fitted.weights_)
    assert np.array_equal(make().fit(files).weights_, fitted.weights_)
    assert np.isfinite(fitted.transform(files)).all()
    assert "2 of 2 epochs" in describe("run")
    assert len(find_near_duplicates([*files, "0.png"]).pairs) == 1
""")


@pytest.mark.slow
def test_only_sha_2_is_needed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
