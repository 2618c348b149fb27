"""A description of a run or an encoder on disk, read from headers alone."""

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from textwrap import fill
from typing import Any, BinaryIO, NamedTuple

from otcxr_sk._files import open_file
from otcxr_sk._json import MOST_VALUES, parse
from otcxr_sk._paths import as_path, reason
from otcxr_sk._quote import brief, counted, listed, plain_text, quoted
from otcxr_sk._safetensors import OF_A_RUN, read_header
from otcxr_sk.training._checkpoint import checkpoint_names, is_whole

# JSON has numbers that are too large to compute with.
_LARGEST = 2**64
# No calendar goes on much longer.
_LATEST = 2.0**37

_INDENT = " " * 12
_LOOKS = 5
_SHOWN, _LONGEST_SETTING = 100, 200


def describe(path: str | os.PathLike[str]) -> str:
    """Describe a folder of checkpoints, or a file written by `save_encoder`, for people.

    Changes nothing, and loads no torch.

    Parameters
    ----------
    path : path
        The folder or file. The run may be training while it is read.

    Returns
    -------
    text : str

    Raises
    ------
    ValueError
        If `path` is neither; the message says what was found.
    OSError
        If it cannot be read.
    """
    path = _existing(path)
    return "\n".join(_run(path) if path.is_dir() else _encoder(path))


def facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what `describe` tells, for programs.

    Parameters
    ----------
    path : path
        As of `describe`, and with its errors.

    Returns
    -------
    facts : dict
        As JSON holds them, but for NaN in the history.
    """
    path = _existing(path)
    if not path.is_dir():
        metadata, shapes = _read_encoder(path)
        return {"file": str(path), "weights": _number(shapes), "tensors": len(shapes), **metadata}
    name, run, saved_at, damaged = _newest(path)
    told = {**run._asdict(), "unusable": len(run.unusable), "held_out": run.held_out}
    files = {"checkpoint": name, "saved_at": saved_at, "damaged": damaged}
    return {"folder": str(path), **told, **files}


def _existing(path: Any) -> Path:
    path = Path(as_path(path))
    if not path.exists():
        raise ValueError(f"{str(path)!r} does not exist; name a run's folder or a saved encoder")
    return path


class _Run(NamedTuple):
    """What a checkpoint says of its run."""

    version: str
    seed: int
    images: int
    unusable: Sequence[Any]
    training: int
    parameters: Mapping[str, Any]
    epochs: int
    epoch: int
    step: int
    steps: int
    stopped: bool
    seconds: float
    history: Mapping[str, Sequence[float]]

    @property
    def held_out(self) -> int:
        """Number of images that are usable, and not trained on."""
        return self.images - len(self.unusable) - self.training


_PLACES = {
    "run.otcxr_sk": str,
    "run.seed": int,
    "run.images.number": int,
    "run.scan.unusable": list,
    "run.n_training": int,
    "run.parameters": dict,
    "run.parameters.epochs": int,
    "epoch": int,
    "step": int,
    "steps": int,
    "stopped": bool,
    "seconds": float,
    "history": dict,
}


def _run(folder: Path) -> Iterator[str]:
    name, run, saved_at, damaged = _newest(folder)
    yield plain_text(str(folder))
    yield from _line("run", ", ".join(_facts(run)))
    settings = [
        f"{brief(key)}={quoted(value, _LONGEST_SETTING)}"
        for key, value in run.parameters.items()
        if value is not None
    ]
    yield from _line("parameters", ", ".join(settings[:_SHOWN]))
    yield from _line("progress", _progress(run))
    yield from _line("time", _pace(run))
    when = datetime.fromtimestamp(saved_at).isoformat(" ", "seconds")
    ago = _duration(max(0.0, time.time() - saved_at))
    yield from _line("saved", f"{when} ({ago} ago), {name}, whole")
    for other in damaged[:_SHOWN]:
        yield from _line("damaged", f"{other}: `fit` will remove it and use the one above")
    yield from _table(run)


def _newest(folder: Path) -> tuple[str, _Run, float, list[str]]:
    """Read the newest undamaged checkpoint, and name the damaged ones that are newer."""
    for _ in range(_LOOKS):
        # Training may replace it by a newer one meanwhile.
        with suppress(FileNotFoundError):
            return _newest_now(folder)
    raise ValueError(f"{str(folder)!r} changes faster than it can be read")


def _newest_now(folder: Path) -> tuple[str, _Run, float, list[str]]:
    damaged: list[str] = []
    for name in checkpoint_names(folder):
        path = folder / name
        with open_file(path, follow=False) as file:
            if is_whole(file, name):
                saved_at = min(max(0.0, os.fstat(file.fileno()).st_mtime), _LATEST)
                return name, _read(file, path), saved_at, damaged
        damaged.append(name)
    if damaged:
        raise ValueError(
            f"{str(folder)!r} holds only damaged checkpoints: {listed(damaged)}; `fit` will "
            "remove them and start over"
        )
    raise ValueError(f"{str(folder)!r} holds no run: no checkpoint has been written there yet")


def _read(file: BinaryIO, path: Path) -> _Run:
    try:
        numbers = parse(read_header(file, OF_A_RUN).metadata["numbers"], OF_A_RUN * MOST_VALUES)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{str(path)!r} was not written by otcxr-sk, although it has the name of a checkpoint; "
            "remove it, or name another folder"
        ) from error
    found = []
    for place, kind in _PLACES.items():
        value: Any = numbers
        for name in place.split("."):
            if not isinstance(value, dict) or name not in value:
                raise ValueError(
                    f"{str(path.parent)!r} holds a run of another version of otcxr-sk, without the "
                    f"entry {name!r}"
                )
            value = value[name]
        if kind in (int, float):
            fits = type(value) in (int, kind) and 0 <= value < _LARGEST
        else:
            fits = type(value) is kind
        found.append(value)
        if not fits or (place == "history" and not _is_history(value, numbers["epoch"])):
            raise ValueError(
                f"{str(path)!r} has the entry {place!r} as no version of otcxr-sk writes it: "
                f"{quoted(value)}; remove it, or name another folder"
            )
    return _Run(*found)


def _is_history(columns: Mapping[str, Any], epochs: int) -> bool:
    return all(
        isinstance(values, list)
        and len(values) >= epochs
        and all(type(v) is float or (type(v) is int and abs(v) < _LARGEST) for v in values)
        for values in columns.values()
    )


def _facts(run: _Run) -> Iterator[str]:
    yield f"otcxr-sk {brief(run.version)}"
    yield f"seed {run.seed} (drawn from random_state)"
    yield counted(run.images, "image")
    if run.unusable:
        yield f"{len(run.unusable)} of them left out"
    if run.held_out:
        yield f"{run.held_out} held out"


def _progress(run: _Run) -> str:
    text = f"{run.epoch} of {counted(run.epochs, 'epoch')} completed"
    if run.stopped:
        return f"{text}, stopped by a callback"
    if run.epoch == run.epochs:
        return f"{text}, ended"
    return text + (f", step {run.step} of {run.steps}" if run.step else "")


def _pace(run: _Run) -> str:
    done = run.epoch + run.step / max(run.steps, 1)
    text = _duration(run.seconds)
    if done and run.seconds:
        text += f", {done * run.training / run.seconds:.3g} images/s"
        if done < run.epochs and not run.stopped:
            text += f", {_duration(run.seconds * (run.epochs - done) / done)} to go"
    return text


def _table(run: _Run) -> Iterator[str]:
    if not run.epoch:
        return
    shown = sorted({0, run.epoch - 1})
    columns = {brief(name): values for name, values in list(run.history.items())[:_SHOWN]}
    width = max(map(len, [*columns, "epoch"]))
    yield f"\n  {'epoch':<{width}}" + "".join(f"{row + 1:>12}" for row in shown)
    for name, values in columns.items():
        cells = ("" if math.isnan(values[row]) else f"{values[row]:.4g}" for row in shown)
        yield f"  {name:<{width}}" + "".join(f"{cell:>12}" for cell in cells)


def _encoder(path: Path) -> Iterator[str]:
    metadata, shapes = _read_encoder(path)
    yield plain_text(str(path))
    yield from _line("weights", f"{_number(shapes):,} numbers in {counted(len(shapes), 'tensor')}")
    for name in ("encoder", "image_size", "resize", "pooling", "mean", "std"):
        yield from _line(name, brief(metadata.get(name)))
    yield from _line("otcxr-sk", brief(metadata["otcxr_sk_version"]))


def _number(shapes: Mapping[str, Sequence[int]]) -> int:
    return sum(map(math.prod, shapes.values()))


def _read_encoder(path: Path) -> tuple[dict[str, str], Mapping[str, Sequence[int]]]:
    """Return the metadata of a saved encoder, and the shapes of its tensors."""
    try:
        with open_file(path) as file:
            metadata, shapes = read_header(file)
    except PermissionError:
        raise
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read: {reason(error)}; name a run's folder or a saved encoder"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{str(path)!r} is not a safetensors file, or damaged; name a run's folder or a saved "
            "encoder"
        ) from error
    if "otcxr_sk_version" not in metadata:
        raise ValueError(f"{str(path)!r} was not written by save_encoder")
    return metadata, shapes


def _line(name: str, text: str) -> Iterator[str]:
    yield fill(
        text,
        100,
        initial_indent=f"  {name:<{len(_INDENT)}}",
        subsequent_indent=f"  {_INDENT}",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _duration(seconds: float) -> str:
    """Format a time: in seconds if it is short, else in minutes."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
