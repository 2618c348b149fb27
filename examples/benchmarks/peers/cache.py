"""Results kept in a folder, so that each is computed once."""

import hashlib
import json
import os
import platform
import re
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

import otcxr_sk

PACKAGES = ("otcxr-sk", "torch", "timm", "lightly", "scikit-learn", "numpy")


class Cache:
    """A folder of results, each with its key and its provenance; files are written atomically.

    Attributes
    ----------
    made_by : dict
        What `provenance` returns.
    others : set of str
        Names of the files that were read and made by another version of the code.
    """

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.made_by = provenance()
        self.others = set()

    def get(self, key, make):
        """Return the result of `make`, a dict, from the folder if it has one for this `key`.

        Its arrays are stored in a separate file.
        """
        # The CPU goes without saying, as it did before there was a choice.
        if key.get("device") == "cpu":
            key = {name: value for name, value in key.items() if name != "device"}
        words = json.dumps(key, sort_keys=True, default=str)
        digest = hashlib.sha256(words.encode()).hexdigest()[:16]
        stem = re.sub(r"\W+", "-", f"{key['kind']}-{key['method']}-{digest}")
        file, arrays = (self.folder / f"{stem}.{suffix}" for suffix in ("json", "npz"))
        if not file.exists():
            result = make()
            found = {name: each for name, each in result.items() if isinstance(each, np.ndarray)}
            if found:
                _replace(arrays, lambda stream: np.savez(stream, **found))
            plain = {name: each for name, each in result.items() if name not in found}
            record = {"key": json.loads(words), "made_by": self.made_by, **plain}
            _replace(file, lambda stream: stream.write(json.dumps(record, indent=1).encode()))
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["made_by"]["code"] != self.made_by["code"]:
            self.others.add(file.name)
        if arrays.exists():
            with np.load(arrays) as stored:
                record |= stored
        return record


def _replace(file, write):
    part = file.with_suffix(f".{os.getpid()}.part")
    with open(part, "wb") as stream:
        write(stream)
    os.replace(part, file)


def provenance():
    """Return versions, machine and date, and a digest of the training code."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    library, here = Path(otcxr_sk.__file__).parent, Path(__file__).parent
    rooms = [library / room for room in ("method", "training", "estimators")]
    files = [file for room in rooms for file in sorted(room.rglob("*.py"))]
    files += [here / f"{name}.py" for name in ("features", "losses", "pretrain")]
    code = b"".join(file.read_bytes() for file in files)
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    return {
        **versions,
        "python": platform.python_version(),
        "machine": machine,
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
        "code": hashlib.sha256(code).hexdigest()[:12],
    }


def fingerprint(*arrays):
    """Return a digest of the values, dtypes and shapes of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(
            f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
        )
    return digest.hexdigest()[:16]
