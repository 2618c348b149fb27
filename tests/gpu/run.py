"""Train as users' scripts do: run.py DEVICE IMAGES FOLDER [STEP].

A checkpoint of every epoch and the final weights are saved in the folder. Kills itself after the
given step.
"""

import itertools
import os
import signal
import sys
from pathlib import Path

import numpy as np
import timm
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from otcxr_sk import LAPTOP, OTCXRPretrainer


def encoder():
    """Make an encoder that draws random numbers on its device."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("resnet10t", in_chans=1, num_classes=0, drop_path_rate=0.2)


def kill_after(step):
    steps = itertools.count(1)

    def count(*_):
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(count)


def main(device, images, folder, step=0):
    kill_after(int(step))
    short = {"encoder": encoder(), "epochs": 4, "batch_size": 32, "random_state": 0}
    estimator = OTCXRPretrainer(
        **{**LAPTOP, **short}, device=device, checkpoint=Path(folder, "run")
    ).fit(np.load(images))
    if int(os.environ.get("RANK", 0)) == 0:
        np.savez(
            Path(folder, "result.npz"), weights=estimator.weights_, loss=estimator.history_["loss"]
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
