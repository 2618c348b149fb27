"""What a user names on the command line: images, labels, a column, a model."""

import os
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otcxr_sk._files import read_file
from otcxr_sk._json import parse
from otcxr_sk._quote import listed, quoted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from otcxr_sk import OTCXRPretrainer
    from otcxr_sk.datasets import Radiographs

STDIN = Path("-")
_KINDS = ("OTCXRPretrainer", "OTCXRClassifier", "OTCXRSegmenter")
_PICKLES = (".joblib", ".pkl", ".pickle", ".skops")
_MOST_CONFIG = 2**24


def find_images(data: Sequence[Path]) -> Any:
    """Return files and the images of folders, in the order given; or the array of an .npz."""
    if is_npz(data):
        return read_images(data[0])[0]
    for one in data:
        kinds = {
            ".csv": "a table; name the folder of the images, and pass the table as --labels",
            ".npz": "an array of images; name nothing beside it",
        }
        if one.suffix.lower() in kinds:
            raise ValueError(f"{quoted(str(one))} is {kinds[one.suffix.lower()]}")
    return find_files(data)


def is_npz(data: Sequence[Path]) -> bool:
    """Whether the images are those of one .npz."""
    return len(data) == 1 and data[0].suffix.lower() == ".npz"


def find_files(data: Sequence[Path]) -> list[str]:
    """Return files, those named on stdin, and the images of folders, in the order given."""
    from otcxr_sk.images import list_images

    paths: list[str] = []
    for one in data:
        if one == STDIN:
            paths += _from_stdin()
            continue
        paths += list_images(one) if require_existing(one).is_dir() else [str(one)]
    return paths


def read_images(npz: Path) -> Any:
    """Read the images of an .npz, and their patients or None."""
    from otcxr_sk.datasets import load_images

    return load_images(require_existing(npz))


def read_labelled(data: Path, labels: Path | None) -> "Radiographs":
    """Read images with their patients and labels."""
    from otcxr_sk.datasets import load_labelled

    return load_labelled(require_existing(data), labels and require_existing(labels))


def only(data: Sequence[Path], why: str) -> Path:
    """Return the one folder or .npz that a table belongs to."""
    if len(data) != 1 or data[0] == STDIN:
        got = f"{len(data)} paths" if len(data) != 1 else "paths on stdin"
        raise ValueError(f"{why} needs one folder or .npz as DATA, got {got}")
    return data[0]


def require_existing(path: Path) -> Path:
    """Return a path, or raise ValueError if it does not exist, with a name that may be meant."""
    if os.path.lexists(path):
        return path
    here = path.absolute()
    while not here.parent.exists():
        here = here.parent
    names: list[str] = []
    with suppress(OSError):
        names = os.listdir(here.parent)
    raise ValueError(f"there is no {quoted(str(path))}{near(here.name, names)}; check the path")


def column(data: "Radiographs", name: str) -> "NDArray[Any]":
    """Return a column of the table."""
    if name not in data.table:
        raise ValueError(
            f"there is no column {quoted(name)}{near(name, data.table)}; the table has "
            f"{listed(data.table)}"
        )
    return data.table[name]


def choose_labels(data: "Radiographs", names: Sequence[str]) -> dict[str, "NDArray[Any]"]:
    """Return labels by name: those that a user named, or all of them."""
    labels = dict(zip(data.label_names, data.labels.T, strict=True))
    for name in names:
        if name not in labels:
            why = data.get("ignored", {}).get(name)
            raise ValueError(
                f"the column {quoted(name)} cannot be a label: {why}"
                if why
                else f"there is no label {quoted(name)}{near(name, labels)}; there are "
                f"{listed(labels) or 'none'}"
            )
    return {name: labels[name] for name in names or labels}


def has_both_classes(y: "NDArray[Any]") -> bool:
    """Whether a label, or a part of it, is 0 for some images and 1 for others."""
    return {0, 1} <= set(y.tolist())


def load_model(path: Path) -> Any:
    """Return the fitted estimator in a folder of `save_pretrained`."""
    from otcxr_sk import estimators

    wanted = "give a folder that `otcxr-sk pretrain` or save_pretrained has written"
    if not require_existing(path).is_dir():
        why = "is no model folder"
        if path.suffix.lower() in _PICKLES:
            why = "may run any code when it is loaded, so it is not read here"
        elif path.suffix.lower() == ".safetensors":
            why = "holds weights alone"
        raise ValueError(f"{quoted(str(path))} {why}; {wanted}")
    if not (path / "config.json").exists():
        raise ValueError(f"{quoted(str(path))} holds no model; {wanted}")
    kind = None
    with suppress(OSError, ValueError):
        kind = read_config(path).get("estimator")
    # What is damaged is told of by the first.
    return getattr(estimators, kind if kind in _KINDS else _KINDS[0]).from_pretrained(path)


def read_config(folder: Path) -> Any:
    """Return what a folder of `save_pretrained` says of its model."""
    return parse(read_file(folder / "config.json", _MOST_CONFIG))


def load_encoder(path: Path, on_error: str, device: str, workers: int | None) -> "OTCXRPretrainer":
    """Return the encoder of any model, for this machine."""
    model = load_model(path)
    return getattr(model, "pretrainer_", model).set_params(
        device=device, num_workers="auto" if workers is None else workers, on_error=on_error
    )


def _from_stdin() -> list[str]:
    text = os.fsdecode(sys.stdin.buffer.read()).removeprefix("\ufeff")
    # As of `find -print0`, whose names may hold all other characters.
    lines = text.split("\0") if "\0" in text else text.replace("\r\n", "\n").split("\n")
    found = [line for line in lines if line]
    if not found:
        raise ValueError("stdin names no files; write one path a line to it")
    return found


def near(name: str, names: Collection[str]) -> str:
    """Return for a message which of some names may be meant."""
    found = get_close_matches(name, names, n=1)
    return f" (did you mean {quoted(found[0])}?)" if found else ""
