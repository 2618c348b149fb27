"""A description of a run or an encoder on disk, read from headers alone."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import file_digest
from pathlib import Path
from textwrap import fill
from typing import Any, BinaryIO

from otcxr_sk._paths import as_path
from otcxr_sk.training._checkpoint import checkpoint_names, checksum

# The limit of safetensors itself.
_LONGEST_HEADER = 100_000_000

_INDENT = " " * 12
_LOOKS = 5


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
    path = Path(as_path(path))
    if path.is_dir():
        try:
            return "\n".join(_run(path))
        except KeyError as error:
            raise ValueError(
                f"{str(path)!r} holds a run of another version of otcxr-sk, without the entry "
                f"{error.args[0]!r}"
            ) from error
    if not path.exists():
        raise ValueError(f"{str(path)!r} does not exist; name a run's folder or a saved encoder")
    return "\n".join(_encoder(path))


def _run(folder: Path) -> Iterator[str]:
    for _ in range(_LOOKS):
        try:
            name, numbers, saved_at, damaged = _newest(folder)
            break
        except FileNotFoundError:
            # Training has replaced it by a newer one.
            continue
    else:
        raise ValueError(f"{str(folder)!r} changes faster than it can be read")
    run = numbers["run"]
    yield str(folder)
    yield from _line("run", ", ".join(_facts(run)))
    settings = [f"{key}={value!r}" for key, value in run["parameters"].items() if value is not None]
    yield from _line("parameters", ", ".join(settings))
    yield from _line("progress", _progress(numbers))
    yield from _line("time", _pace(numbers))
    when = datetime.fromtimestamp(saved_at).isoformat(" ", "seconds")
    ago = _duration(max(0.0, time.time() - saved_at))
    yield from _line("saved", f"{when} ({ago} ago), {name}, whole")
    for other in damaged:
        yield from _line("damaged", f"{other}: `fit` will remove it and use the one above")
    yield from _table(numbers["history"], numbers["epoch"])


def _newest(folder: Path) -> tuple[str, dict[str, Any], float, list[str]]:
    """Read the newest undamaged checkpoint, and name the damaged ones that are newer."""
    damaged: list[str] = []
    for name in checkpoint_names(folder):
        with open(folder / name, "rb") as file:
            if name.endswith(f"-{file_digest(file, checksum).hexdigest()}.safetensors"):
                numbers = json.loads(_header(file, folder / name)["numbers"])
                return name, numbers, (folder / name).stat().st_mtime, damaged
        damaged.append(name)
    if damaged:
        raise ValueError(
            f"{str(folder)!r} holds only damaged checkpoints: {', '.join(damaged)}; `fit` will "
            "remove them and start over"
        )
    raise ValueError(f"{str(folder)!r} holds no run: no checkpoint has been written there yet")


def _header(file: BinaryIO, path: Path) -> dict[str, Any]:
    """Return the metadata of a safetensors file, with the shapes of its tensors as "shapes"."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    try:
        if length > _LONGEST_HEADER:
            raise ValueError
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        return {**metadata, "shapes": [tensor["shape"] for tensor in header.values()]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(path)!r} is not a safetensors file; name a run's folder or a saved encoder"
        ) from error


def _facts(run: Mapping[str, Any]) -> Iterator[str]:
    yield f"otcxr-sk {run['otcxr_sk']}"
    yield f"seed {run['seed']}"
    number, unusable = run["images"]["number"], len(run["scan"]["unusable"])
    yield f"{number} images"
    if unusable:
        yield f"{unusable} of them left out"
    if held_out := number - unusable - run["n_training"]:
        yield f"{held_out} held out"


def _progress(numbers: Mapping[str, Any]) -> str:
    epoch, epochs = numbers["epoch"], numbers["run"]["parameters"]["epochs"]
    text = f"{epoch} of {epochs} epochs completed"
    if numbers["stopped"]:
        return f"{text}, stopped by a callback"
    if epoch == epochs:
        return f"{text}, ended"
    return text + (f", step {numbers['step']} of {numbers['steps']}" if numbers["step"] else "")


def _pace(numbers: Mapping[str, Any]) -> str:
    seconds, epochs = numbers["seconds"], numbers["run"]["parameters"]["epochs"]
    done = numbers["epoch"] + numbers["step"] / numbers["steps"]
    text = _duration(seconds)
    if done and seconds:
        text += f", {done * numbers['run']['n_training'] / seconds:.3g} images/s"
        if done < epochs and not numbers["stopped"]:
            text += f", {_duration(seconds * (epochs - done) / done)} to go"
    return text


def _table(history: Mapping[str, Sequence[float]], epoch: int) -> Iterator[str]:
    if not epoch:
        return
    shown = sorted({0, epoch - 1})
    width = max(map(len, history))
    yield f"\n  {'epoch':<{width}}" + "".join(f"{row + 1:>12}" for row in shown)
    for name, values in history.items():
        cells = ("" if math.isnan(values[row]) else f"{values[row]:.4g}" for row in shown)
        yield f"  {name:<{width}}" + "".join(f"{cell:>12}" for cell in cells)


def _encoder(path: Path) -> Iterator[str]:
    with open(path, "rb") as file:
        header = _header(file, path)
    if "otcxr_sk_version" not in header:
        raise ValueError(f"{str(path)!r} was not written by save_encoder")
    yield str(path)
    shapes = header.pop("shapes")
    weights = sum(math.prod(shape) for shape in shapes)
    yield from _line("weights", f"{weights:,} numbers in {len(shapes)} tensors")
    for name in ("encoder", "image_size", "resize", "mean", "std"):
        yield from _line(name, repr(header.get(name)).strip("'"))
    yield from _line("otcxr-sk", repr(header["otcxr_sk_version"]).strip("'"))


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
