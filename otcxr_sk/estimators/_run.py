"""Whether a checkpoint folder holds the run that `fit` is asked for."""

import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import file_digest, sha256
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from torch import nn

from otcxr_sk._files import open_file
from otcxr_sk._parameters import ParameterGroup
from otcxr_sk._quote import brief, quoted
from otcxr_sk._version import __version__
from otcxr_sk._warning import warn_user
from otcxr_sk.estimators._parameters import Settings
from otcxr_sk.estimators._state import Learned
from otcxr_sk.images import ImageSource, Scan, Unusable
from otcxr_sk.method import locate
from otcxr_sk.training import (
    CheckpointFolder,
    CheckpointWarning,
    EarlyStopping,
    InMemoryCheckpoint,
    NonFiniteLossError,
    Processes,
    Randomness,
    RunState,
    Trainer,
    TrainingInterrupted,
)

# Parameters that decide where, how fast and how long a run goes, but not what it computes. Compared
# are the seed drawn from `random_state`, and those callbacks that end a run early.
_FREE = {
    "cache",
    "callbacks",
    "checkpoint",
    "device",
    "num_workers",
    "random_state",
    "verbose",
    "warm_start",
}

# Images that are compared with those of the run, and parameters that a message names.
_COMPARED, _NAMED = 16, 20


@dataclass
class Run:
    """A run that starts or continues.

    Parameters
    ----------
    seed : int
    checkpoints : CheckpointFolder, InMemoryCheckpoint or None
        Where it is saved.
    start : RunState or None
        Where it continues from.
    scan : Scan or None
        What the scan of the images found when the run began.
    """

    seed: int
    checkpoints: CheckpointFolder | InMemoryCheckpoint | None = None
    start: RunState | None = None
    scan: Scan | None = None

    def keep_scan(self, found: Scan, n_training: int) -> None:
        """Save with every checkpoint what the scan of the images found."""
        if isinstance(self.checkpoints, CheckpointFolder):
            self.checkpoints.run |= {"scan": _pack_scan(found), "n_training": n_training}

    def train(
        self, trainer: Trainer, network: nn.Module, images: ImageSource, random: Randomness
    ) -> tuple[dict[str, list[float]], BaseException | None]:
        """Train a network; return the history, and the error that ended training early, if any.

        Raises
        ------
        NonFiniteLossError
            No epoch ended well, so that there is nothing to keep.
        """
        try:
            return trainer.fit(network, images, self.checkpoints, self.start, random), None
        except NonFiniteLossError as error:
            if not error.epoch:
                raise
            return error.history, error
        except TrainingInterrupted as error:
            return error.history, error


@contextmanager
def open_run(
    settings: Settings,
    source: ImageSource,
    seed: int,
    processes: Processes,
    describe: Callable[[str], dict[str, Any]],
) -> Iterator[Run]:
    """Start a run, or find the one that the folder of `settings.checkpoint` holds.

    The folder belongs to this run until the block ends. Where several processes train, only the
    first reads and writes there, and all use its seed.

    Parameters
    ----------
    settings : Settings
    source : ImageSource
    seed : int
        Of a run that starts.
    processes : Processes
    describe : callable
        Takes a salt, and returns what `describe_run` returns for the run that is asked for.

    Raises
    ------
    ValueError
        The folder cannot be used, holds another run or is being used by one, or processes were
        given different parameters or images.
    """
    if processes.count > 1:
        _require_same_everywhere(processes.gather(describe("")))
    with ExitStack() as held:
        run = processes.from_first(partial(_open_alone, settings, source, seed, describe, held))
        yield run if processes.is_first else replace(run, checkpoints=None)


def _open_alone(
    settings: Settings,
    source: ImageSource,
    seed: int,
    describe: Callable[[str], dict[str, Any]],
    held: ExitStack,
) -> Run:
    if settings.checkpoint is None:
        return Run(seed)
    checkpoints = CheckpointFolder(settings.checkpoint.folder, settings.checkpoint.every)
    held.enter_context(checkpoints.alone())
    any_seed = settings.random_state is None

    def accept(found: RunState) -> None:
        there = found.numbers.get("run")
        if not _is_run(there):
            raise ValueError(
                f"the checkpoint folder {checkpoints.folder!r} holds a run that this version of "
                "otcxr-sk did not write, or that was changed; use another folder"
            )
        here = describe(there["salt"])
        require_same_run(there, here, checkpoints.folder, any_seed=any_seed)

    start = checkpoints.load(accept)
    if start is None:
        checkpoints.run = describe(secrets.token_hex(16))
        return Run(seed, checkpoints)
    there = start.numbers["run"]
    checkpoints.run = there
    found = _unpack_scan(there["scan"], source, settings.image_size)
    return Run(there["seed"], checkpoints, start, found)


def describe_run(
    settings: Settings,
    source: ImageSource,
    seed: int,
    patients: NDArray[np.intp],
    before: Learned | None = None,
    salt: str = "",
) -> dict[str, Any]:
    """Describe a run by the parameters and images that decide its result, for JSON.

    Images are identified by their number, by a digest, under `salt`, of the names of their files
    below their common folder, and by the mean of the upper left quarter of up to 16 of them; if
    some are held out, by a digest of which are of the same patient, too. A warm start is identified
    by what was learned `before`, and a file of weights by its content. Nothing in it names a file
    or a patient.
    """
    parameters: dict[str, Any] = {}
    for name, value in vars(settings).items():
        if isinstance(value, ParameterGroup) and name not in _FREE:
            parameters |= {f"{name}__{key}": _plain(one) for key, one in value.get_params().items()}
        elif name not in _FREE:
            parameters[name] = _plain(value)
    if isinstance(settings.weights, str | os.PathLike):
        with open_file(locate(settings.weights)) as file:
            parameters["weights"] = f"file {file_digest(file, sha256).hexdigest()[:16]}"
    if before is not None:
        pixels = repr((before.mean_, before.std_)).encode()
        parameters["warm_start"] = f"from weights {digest_of(before.weights_.tobytes() + pixels)}"
    # They decide when a run ends, and with which weights.
    early = [
        repr(each) if type(each) is EarlyStopping else _plain(each)
        for each in settings.callbacks
        if isinstance(each, EarlyStopping)
    ]
    parameters["callbacks"] = early or None
    held_out = settings.validation_fraction > 0
    rows = np.unique(np.linspace(0, len(source) - 1, _COMPARED).astype(np.intp))
    size = settings.image_size
    # An image that cannot be used reads as zeros.
    images, _ = source.read_usable(rows, size)
    # Whole images may all have been normalized to the same mean.
    quarters = images[:, 0, : (size + 1) // 2, : (size + 1) // 2]
    return {
        "otcxr_sk": __version__,
        "seed": seed,
        "salt": salt,
        "parameters": parameters,
        "images": {
            "number": len(source),
            "files": _digest_of_files(source, salt),
            "patients": digest_of(patients.astype("<i8").tobytes(), salt) if held_out else None,
            "rows": rows.tolist(),
            "means": quarters.mean(axis=(1, 2), dtype=np.float64).tolist(),
        },
    }


def require_same_run(
    there: Mapping[str, Any], here: Mapping[str, Any], folder: str, *, any_seed: bool
) -> None:
    """Compare the descriptions of the run in a folder and of the run that is asked for.

    Raises
    ------
    ValueError
        They differ; the message names every difference.

    Warns
    -----
    CheckpointWarning
        They differ only in the version of this library.
    """
    differences = _differing_parameters(there["parameters"], here["parameters"])
    if not any_seed and there["seed"] != here["seed"]:
        differences.append("random_state gives another seed")
    differences += _differing_images(there["images"], here["images"])
    if differences:
        raise ValueError(
            f"the checkpoint folder {folder!r} holds another run: {'; '.join(differences)}. Use "
            "another folder, or the parameters and images of that run to continue it; in a "
            "cross-validation, whose fits are runs of their own, checkpoint=None"
        )
    if there["otcxr_sk"] != here["otcxr_sk"]:
        begun_by = brief(there["otcxr_sk"])
        warn_user(
            f"checkpoint folder {folder!r}: the run was begun by otcxr-sk {begun_by} and continues "
            f"with {here['otcxr_sk']}; it may end with other weights",
            CheckpointWarning,
        )


def _require_same_everywhere(runs: Sequence[Mapping[str, Any]]) -> None:
    for rank, there in enumerate(runs):
        differences = _differing_parameters(there["parameters"], runs[0]["parameters"])
        differences += _differing_images(there["images"], runs[0]["images"])
        if differences:
            raise ValueError(
                f"process {rank} (there) and process 0 (here) were given different input: "
                f"{'; '.join(differences)}. Give every process the same parameters and all images, "
                "in the same order; fit distributes the images itself"
            )


def _pack_scan(found: Scan) -> dict[str, Any]:
    # Why they cannot be used would name the files.
    unusable = [problem.row for problem in found.unusable]
    return {"mean": found.mean, "std": found.std, "unusable": unusable}


def _unpack_scan(packed: Mapping[str, Any], source: ImageSource, size: int) -> Scan:
    _, problems = source.read_usable(packed["unusable"], size, refuse_constant=True)
    known = {problem.row: problem for problem in problems}
    mended = ValueError("it could not be used when the run began")
    unusable = [
        known.get(row, Unusable(row, source.file(row), mended)) for row in packed["unusable"]
    ]
    return Scan(packed["mean"], packed["std"], unusable)


def _is_run(there: Any) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a description is as `describe_run` and `Run.keep_scan` write it."""
    try:
        images, found = there["images"], there["scan"]
        rows, n = images["rows"], images["number"]
        return (
            all(isinstance(there[name], str) for name in ("otcxr_sk", "salt"))
            and all(type(number) is int for number in (there["seed"], there["n_training"], n))
            and 0 <= there["seed"] <= np.iinfo(np.int32).max
            and 0 < there["n_training"] <= n < 2**48
            and isinstance(there["parameters"], dict)
            and all(isinstance(one, list) for one in (rows, images["means"], found["unusable"]))
            and all(isinstance(images[name], str | None) for name in ("files", "patients"))
            and all(type(row) is int and 0 <= row < n for row in (*rows, *found["unusable"]))
            and 0 < len(rows) == len(images["means"]) <= _COMPARED
            and found["unusable"] == sorted(set(found["unusable"]))
            and found["std"] > 0
            and all(
                isinstance(number, float) and math.isfinite(number)
                for number in (*images["means"], found["mean"], found["std"])
            )
        )
    except (LookupError, TypeError):
        return False


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
        return f"{type(value).__qualname__} {digest_of(value.weights_.tobytes())}"
    # A module: a run that continues takes its weights from the checkpoint in any case.
    return f"{type(value).__qualname__} {digest_of(repr(value).encode())}"


def _digest_of_files(source: ImageSource, salt: str) -> str | None:
    files = [source.file(row) for row in range(len(source))]
    found = [os.path.abspath(file) for file in files if file is not None]
    if not found:
        return None
    # The folder may lie elsewhere on another machine.
    try:
        shared = os.path.commonpath([os.path.dirname(file) for file in found])
    except ValueError:
        shared = ""
    names = [None if file is None else os.path.abspath(file).removeprefix(shared) for file in files]
    # JSON escapes names beyond ASCII.
    return digest_of(json.dumps(names).encode(), salt)


def digest_of(content: bytes, salt: str = "") -> str:
    """Identify what decides the result of a run, without naming it."""
    return sha256(salt.encode() + content).hexdigest()[:16]


def _differing_parameters(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    differing = [
        name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)
    ]
    told = [
        f"{brief(name)} is {quoted(there.get(name))} there and {quoted(here.get(name))} here"
        for name in differing[:_NAMED]
    ]
    return told + [f"and {len(differing) - _NAMED} more"] * (len(differing) > _NAMED)


def _differing_images(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    if there["number"] != here["number"]:
        return [f"the number of images is {there['number']} there and {here['number']} here"]
    differences = []
    if there["files"] != here["files"]:
        differences.append("the files have other names or another order")
    if there.get("patients") != here["patients"]:
        differences.append("the groups differ")
    # Decoders and processors round differently.
    mine, its = (np.array(which["means"], np.float64) for which in (there, here))
    other = ~np.isclose(mine, its, rtol=0, atol=1e-3 * float(np.abs(mine).max()))
    if other.any():
        row = there["rows"][int(other.argmax())]
        differences.append(f"the images differ, as in row {row}")
    return differences
