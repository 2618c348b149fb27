"""Which run a folder of checkpoints belongs to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

import otcxr_sk
from otcxr_sk.estimators._stream import is_warm
from otcxr_sk.estimators._watching import early_stopping
from otcxr_sk.images import ImageSource
from otcxr_sk.images._problems import Unusable
from otcxr_sk.images._scan import Scan
from otcxr_sk.training.checkpoint import Checkpoint, Checkpoints, CheckpointWarning
from otcxr_sk.training.distributed import ALONE, Processes
from otcxr_sk.training.warning import warn_user

# Parameters that change where, how fast and how long, but not what is computed. Of `random_state`
# the seed is compared that was drawn from it, and of `callbacks` those that end a run early.
_FREE = {
    "cache_dir",
    "cache_gb",
    "callbacks",
    "checkpoint_dir",
    "checkpoint_every",
    "device",
    "max_time",
    "num_workers",
    "random_state",
    "verbose",
    "warm_start",
}

# Images looked at to tell whether they are those of the run.
_LOOKED_AT = 16


@dataclass
class Run:
    """A run that starts or goes on, and where it is saved, if anywhere.

    Parameters
    ----------
    seed : int
    checkpoints : Checkpoints or None
    start : Checkpoint or None
        Where to go on from.
    scan : Scan or None
        What was learnt of the images when the run began.
    """

    seed: int
    checkpoints: Checkpoints | None = None
    start: Checkpoint | None = None
    scan: Scan | None = None

    def keep_scan(self, found: Scan, n_training: int) -> None:
        """Save with every checkpoint what was learnt of the images."""
        if self.checkpoints is not None:
            self.checkpoints.run |= {"scan": _pack_scan(found), "n_training": n_training}


@contextmanager
def open_run(
    estimator: Any,
    source: ImageSource,
    seed: int,
    patients: NDArray[np.intp],
    processes: Processes = ALONE,
) -> Iterator[Run]:
    """Start a run, or find the one that an estimator's `checkpoint_dir` holds.

    Of several processes the first alone reads and writes there, and its seed is that of all. The
    folder is this run's alone until the block ends.

    Raises
    ------
    ValueError
        The folder holds another run or is being used by one, there can be no such folder, or
        processes were given different parameters or images.
    """
    if processes.count > 1:
        _require_same_everywhere(processes.gather(describe_run(estimator, source, seed, patients)))
    with ExitStack() as held:
        run = processes.from_first(partial(_open_alone, estimator, source, seed, patients, held))
        yield run if processes.is_first else replace(run, checkpoints=None)


def _open_alone(
    estimator: Any, source: ImageSource, seed: int, patients: NDArray[np.intp], held: ExitStack
) -> Run:
    if estimator.checkpoint_dir is None:
        return Run(seed)
    checkpoints = Checkpoints(estimator.checkpoint_dir, estimator.checkpoint_every)
    held.enter_context(checkpoints.alone())
    checkpoints.run = describe_run(estimator, source, seed, patients)
    start = checkpoints.load()
    if start is None:
        return Run(seed, checkpoints)
    there = start.numbers["run"]
    any_seed = estimator.random_state is None
    require_same_run(there, checkpoints.run, checkpoints.folder, any_seed=any_seed)
    checkpoints.run = there
    return Run(there["seed"], checkpoints, start, _unpack_scan(there["scan"]))


def describe_run(
    estimator: Any, source: ImageSource, seed: int, patients: NDArray[np.intp]
) -> dict[str, Any]:
    """Parameters and images of a run, as far as they decide its result, for JSON.

    Images are told by their number, the names of their files below the folder that all of them
    share, and the mean of the upper left quarter of up to 16 of them; where some are held out,
    by their patients, too.
    """
    parameters = {
        name: _plain(value)
        for name, value in estimator.get_params(deep=False).items()
        if name not in _FREE
    }
    if is_warm(estimator):
        parameters["warm_start"] = f"from weights {_digest(estimator.weights_.tobytes())}"
    parameters["callbacks"] = early_stopping(estimator.get_params(deep=False)["callbacks"])
    watched = parameters["validation_fraction"] > 0
    rows = np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).astype(np.intp))
    # One that cannot be used reads as zeros.
    size = parameters["image_size"]
    images, _ = source.read_usable(rows, size)
    # Whole images may all have the same mean.
    quarters = images[:, 0, : (size + 1) // 2, : (size + 1) // 2]
    return {
        "otcxr_sk": otcxr_sk.__version__,
        "seed": seed,
        "parameters": parameters,
        "images": {
            "number": len(source),
            "files": _digest_of_files(source),
            "patients": _digest(patients.astype("<i8").tobytes()) if watched else None,
            "rows": rows.tolist(),
            "means": quarters.mean(axis=(1, 2), dtype=np.float64).tolist(),
        },
    }


def require_same_run(
    there: Mapping[str, Any], here: Mapping[str, Any], folder: str, *, any_seed: bool
) -> None:
    """Compare what `describe_run` gave for the run in a folder and for the one asked for.

    Raises
    ------
    ValueError
        They differ; the message names all that does.

    Warns
    -----
    CheckpointWarning
        They differ in the version of this library alone.
    """
    differences = _differing_parameters(there["parameters"], here["parameters"])
    if not any_seed and there["seed"] != here["seed"]:
        differences.append("random_state gives another seed")
    differences += _differing_images(there["images"], here["images"])
    if differences:
        raise ValueError(
            f"checkpoint_dir={folder!r} holds another run: {'; '.join(differences)}. Use another "
            "folder for this run, or the parameters and images of that one to go on with it"
        )
    if there["otcxr_sk"] != here["otcxr_sk"]:
        warn_user(
            f"checkpoint_dir={folder!r}: the run was begun by otcxr-sk {there['otcxr_sk']} and "
            f"goes on with {here['otcxr_sk']}; it may end with other weights",
            CheckpointWarning,
        )


def _require_same_everywhere(runs: Sequence[Mapping[str, Any]]) -> None:
    for rank, there in enumerate(runs):
        differences = _differing_parameters(there["parameters"], runs[0]["parameters"])
        differences += _differing_images(there["images"], runs[0]["images"])
        if differences:
            raise ValueError(
                f"process {rank} (there) was given something else than process 0 (here): "
                f"{'; '.join(differences)}. Give all processes the same parameters and all the "
                "images, in the same order: they are shared out inside"
            )


def _pack_scan(found: Scan) -> dict[str, Any]:
    unusable = [[problem.row, problem.file, problem.reason] for problem in found.unusable]
    return {"mean": found.mean, "std": found.std, "unusable": unusable}


def _unpack_scan(packed: Mapping[str, Any]) -> Scan:
    unusable = [Unusable(row, file, ValueError(reason)) for row, file, reason in packed["unusable"]]
    return Scan(packed["mean"], packed["std"], unusable)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if hasattr(value, "weights_"):
        return f"{type(value).__qualname__} {_digest(value.weights_.tobytes())}"
    # A module: its weights at the start are those of the first part of the run in any case.
    return f"{type(value).__qualname__} {_digest(repr(value).encode())}"


def _digest_of_files(source: ImageSource) -> str | None:
    files = [source.file(row) for row in range(len(source))]
    found = [os.path.abspath(file) for file in files if file is not None]
    if not found:
        return None
    # Where the folder lies may change from one machine to the next.
    try:
        shared = os.path.commonpath([os.path.dirname(file) for file in found])
    except ValueError:
        shared = ""
    names = [None if file is None else os.path.abspath(file).removeprefix(shared) for file in files]
    # JSON escapes what a name may hold beyond ASCII.
    return _digest(json.dumps(names).encode())


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=8).hexdigest()


def _differing_parameters(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]


def _differing_images(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    if there["number"] != here["number"]:
        return [f"there are {there['number']} images there and {here['number']} here"]
    differences = []
    if there["files"] != here["files"]:
        differences.append("the files have other names or another order")
    if there.get("patients") != here["patients"]:
        differences.append("the groups differ")
    # Decoders and processors differ by rounding.
    mine, its = (np.array(which["means"], np.float64) for which in (there, here))
    other = ~np.isclose(mine, its, rtol=0, atol=1e-3 * float(np.abs(mine).max()))
    if other.any():
        row = there["rows"][int(other.argmax())]
        differences.append(f"the images differ, as in row {row}")
    return differences
