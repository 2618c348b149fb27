"""Workers talk through pipes: a container with little shared memory is no obstacle."""

import os
import subprocess
import sys

import pytest

WITH_WORKERS = """
import os, sys
import numpy as np
from joblib import parallel_config
from otcxr_sk import OTCXRPretrainer

if __name__ == "__main__":
    assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize <= 2**16
    X = np.random.default_rng(0).random((32, 128, 128), np.float32)
    encoder = OTCXRPretrainer(
        "test_resnet", image_size=128, epochs=1, batch_size=16, num_workers=2, random_state=0
    ).fit(X)
    with parallel_config(n_jobs=2):
        print(encoder.transform(X).shape)
"""


@pytest.mark.slow
def test_workers_need_no_shared_memory(tmp_path):
    (tmp_path / "script.py").write_text(WITH_WORKERS)
    small = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", small], capture_output=True).returncode:
        pytest.skip("this user may not mount a small /dev/shm")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{small} && exec "$0" "$1"', sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "(32, 96)", done.stderr
