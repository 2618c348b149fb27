"""Fit in this process, alone or as one of several, and save the results in a folder.

launched.py FOLDER fit       the cases below
launched.py FOLDER compare   gradients of several processes with those of one
launched.py FOLDER stop      runs that are stopped, in every way
launched.py FOLDER go-on     continue the runs in the folder
launched.py FOLDER begin     a run that is stopped
launched.py FOLDER killed    a run whose second process is killed halfway
launched.py FOLDER halted    a run whose second process is halted halfway
"""

import os
import signal
import sys
import warnings
from copy import deepcopy
from datetime import timedelta
from pathlib import Path

import numpy as np
import safetensors.torch
import timm
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.method import Objective, OTCXRModel, Views, build_encoder
from otcxr_sk.training import (
    NonFiniteLossError,
    Optimizer,
    TimeLimit,
    _distributed,
    join_processes,
)
from otcxr_sk.training._shared_batch import has_idle_parameters

RANK = int(os.environ.get("RANK", 0))

CASES = {
    "plain": {},
    "accumulated": {"accumulate": 2, "batch_size": 6},
    "norms that act": {"encoder": "test_efficientnet"},
    "idle heads": {"global_weight": 0.0},
    "cv_sim": {"cv_sim_depth": 1, "transport": "direct"},
    "unusable": {"on_error": "warn"},
    "without a seed": {"random_state": None},
    "bfloat16": {"precision": "bfloat16"},
    "held out": {"validation_fraction": 0.2, "optimizer": Optimizer(ema=0.5)},
}


class Encoder(nn.Module):
    """An encoder that calls `act` on its map at one of its training passes."""

    def __init__(self, at=None, act=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(1, 16, 8, stride=8)
        self.rest = nn.Sequential(nn.BatchNorm2d(16), nn.GELU())
        self.at, self.act, self.passes = at, act, 0

    def forward(self, images):
        self.passes += self.training
        dense = self.rest(self.stem(images))
        if self.act is not None and self.training and self.passes == self.at:
            dense = self.act(dense)
        return dense


def images(n=23, broken=False):
    pixels = np.random.default_rng(0).random((n, 32, 32), np.float32)
    if broken:
        pixels[[2, 19]] = np.nan
    return pixels


def resnet():
    """Make a small ResNet without kinks, where rounding could decide where a gradient goes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        smooth = {"act_layer": nn.SiLU, "replace_stem_pool": True}
        return timm.create_model("test_resnet", in_chans=1, num_classes=0, **smooth)


def pretrainer(encoder=None, **options):
    # With this epsilon the transport converges at once: rounding cannot change the iterations.
    objective = {key: options.pop(key) for key in list(options) if hasattr(Objective, key)}
    exact = {"objective": Objective(epsilon=1.0, **objective), "precision": "float32"}
    small = {"image_size": 32, "batch_size": 8, "learning_rate": 1e-3, "epochs": 3}
    return OTCXRPretrainer(encoder or resnet(), **{**exact, **small, "random_state": 0, **options})


def keep(folder, name, estimator, told=()):
    state = safetensors.torch.load(estimator.weights_.tobytes())
    np.savez(
        folder / f"{name}-{RANK}.npz",
        **{f"weights/{key}": value.float().numpy() for key, value in state.items()},
        **{f"history/{key}": values for key, values in estimator.history_.items()},
        pixels=[estimator.mean_, estimator.std_],
        skipped=[problem["row"] for problem in estimator.skipped_],
        embedding=estimator.transform(images(4)),
        score=estimator.score(images(4)),
        warned=np.array([str(warning.message) for warning in told]),
    )


def fit_all(folder):
    for name, options in CASES.items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            fitted = pretrainer(**options).fit(images(broken=name == "unusable"))
        keep(folder, name, fitted, told)


def press_ctrl_c(dense):
    signal.raise_signal(signal.SIGINT)
    return dense


def fail(dense):
    return dense * torch.nan


def kill(dense):
    os.kill(os.getpid(), signal.SIGKILL)


def halt(dense):
    os.kill(os.getpid(), signal.SIGSTOP)


def run_in(folder, act=None, at=5, **options):
    """Make a run of nine steps, in whose fifth one the second process acts."""
    encoder = Encoder(at, act if RANK == 1 else None)
    return pretrainer(encoder, checkpoint=folder, **options)


def refused(folder, name, estimator, pixels, error):
    try:
        estimator.fit(pixels)
    except error as caught:
        (folder / f"{name}-{RANK}.txt").write_text(str(caught))
        if hasattr(estimator, "weights_"):
            keep(folder, name, estimator)
    else:
        raise RuntimeError(f"{name}: nothing was raised")


def stop_all(folder):
    interrupted = run_in(folder / "interrupted", press_ctrl_c)
    refused(folder, "interrupt", interrupted, images(), KeyboardInterrupt)
    failed = run_in(folder / "failed", fail)
    refused(folder, "failure", failed, images(), NonFiniteLossError)
    refused(folder, "other images", pretrainer(), images(23 - RANK), ValueError)
    refused(folder, "other options", pretrainer(eta=RANK + 1.0), images(), ValueError)
    refused(
        folder, "all unusable", pretrainer(on_error="nan"), np.full((6, 32, 32), np.nan), ValueError
    )
    short = run_in(folder / "short", callbacks=[TimeLimit(minutes=1e-9)]).fit(images())
    keep(folder, "short", short)


def go_on_all(folder):
    keep(folder, "whole", pretrainer(Encoder()).fit(images()))
    for name in ("interrupted", "failed", "short", "killed", "begun"):
        if (folder / name).is_dir():
            keep(folder, name, run_in(folder / name).fit(images()))


def begin(folder):
    encoder = Encoder(5, press_ctrl_c)
    begun = pretrainer(encoder, checkpoint=folder / "begun")
    refused(folder, "begin", begun, images(), KeyboardInterrupt)


def compare_gradients(folder):
    """Save the largest relative errors of terms, gradients and buffers, in float64."""
    processes = join_processes("cpu")
    errors = {
        name: compare_gradient(processes, Objective(**options))
        for name, options in [
            ("inverse", {"global_weight": 3.0, "cv_sim_depth": 1, "read_out": 3.0}),
            ("direct", {"global_weight": 3.0, "transport": "direct"}),
            ("idle", {"global_weight": 0.0}),
        ]
    }
    np.savez(folder / f"errors-{RANK}.npz", **errors)


def compare_gradient(processes, objective):
    torch.manual_seed(0)
    encoder = build_encoder("test_efficientnet", size=32, match_stride=8)
    whole = OTCXRModel(encoder, objective)
    idle = has_idle_parameters(whole, objective, 32)
    part = deepcopy(whole.double())
    views, affine = Views()(torch.from_numpy(images(7)).unsqueeze(1), torch.Generator())
    views, affine = views.double(), affine.double()
    rows = [slice(0, 3), slice(3, 7)][processes.rank]
    mine = [torch.cat([view[rows] for view in both.chunk(2)]) for both in (views, affine)]
    shared = DistributedDataParallel(processes.share(part, objective), find_unused_parameters=idle)
    usual, torch.Tensor.float = torch.Tensor.float, torch.Tensor.double
    terms, _ = whole(views, affine)
    objective.total(terms).backward()
    its_terms, _ = shared(*mine)
    objective.total(its_terms).backward()
    torch.Tensor.float = usual
    pairs = [
        *((terms[name], its_terms[name]) for name in terms),
        *((a.grad, b.grad) for a, b in zip(whole.parameters(), part.parameters(), strict=True)),
        *zip(whole.buffers(), part.buffers(), strict=True),
    ]
    known = [(a.detach().double(), b.detach().double()) for a, b in pairs if a is not None]
    assert all(b is None for a, b in pairs if a is None)
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-3)) for a, b in known)


def main(folder, *tasks):
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Adam divides gradients by their size, so where a gradient is zero up to rounding errors, these
    # make steps of full length. A large eps prevents that.
    start = torch.optim.AdamW.__init__
    torch.optim.AdamW.__init__ = lambda *args, **options: start(*args, **{**options, "eps": 0.1})
    works = {
        "fit": fit_all,
        "compare": compare_gradients,
        "stop": stop_all,
        "go-on": go_on_all,
        "begin": begin,
        "killed": lambda folder: run_in(folder / "killed", kill).fit(images()),
        "halted": lambda folder: run_in(folder / "halted", halt).fit(images()),
    }
    _distributed.LOOKED_AT = 3
    _distributed.TIMEOUT = timedelta(seconds=20 if "halted" in tasks else 120)
    for task in tasks:
        works[task](folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
