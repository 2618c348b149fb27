"""Read damaged copies of DICOM files and print a report on each; run as a subprocess.

python mutants.py SEED COUNT MODALITIES SCRATCH FILE...
"""

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from otcxr_sk.images import ImageReadError, ImageReadWarning, read_dicom

EXTREME = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]


def position(raw, random):
    """Return a random position in a file, in two of three cases near its start or end."""
    near = min(len(raw), 2048)
    return int(
        random.choice(
            [random.integers(len(raw)), random.integers(near), len(raw) - 1 - random.integers(near)]
        )
    )


def truncate(raw, random):
    return raw[: position(raw, random)]


def flip(raw, random):
    damaged = bytearray(raw)
    for _ in range(random.integers(1, 9)):
        damaged[position(raw, random)] ^= 1 << random.integers(8)
    return damaged


def edit_lengths(raw, random):
    """Write extreme numbers where lengths, sizes and offsets may be."""
    damaged = bytearray(raw)
    for _ in range(random.integers(1, 4)):
        at, width = position(raw, random) // 2 * 2, int(random.choice([2, 4]))
        value = int(random.choice(EXTREME)) % 256**width
        damaged[at : at + width] = value.to_bytes(width, str(random.choice(["little", "big"])))
    return damaged


def splice(raw, random):
    """Delete a part, or insert it, or zeros of its length, elsewhere."""
    start, stop = sorted(position(raw, random) for _ in range(2))
    part = raw[start : min(stop, start + 4096)]
    kind = random.integers(3)
    if kind == 0:
        return raw[:start] + raw[start + len(part) :]
    at = position(raw, random)
    return raw[:at] + (part if kind == 1 else bytes(len(part))) + raw[at:]


MUTATIONS = [truncate, flip, edit_lengths, splice]


def read(path, modalities):
    try:
        image = read_dicom(path, modalities=modalities, frame=0)
    except ImageReadError as error:
        if isinstance(error.__cause__, Warning):
            return f"a warning: {error.__cause__}"
        # Nothing is left to the message for errors that nobody foresaw.
        if "its content cannot be decoded" in str(error):
            return f"{type(error.__cause__)}: {error.__cause__}"
        return "error" if repr(str(path)) in str(error) else f"no file in {error}"
    in_range = image.dtype == np.float32 and 0 <= image.min() <= image.max() <= 1
    return "image" if in_range else f"{image.dtype} {image.min()} to {image.max()}"


def peak_mebibytes():
    """Return the peak of resident memory, of this process alone, unlike getrusage."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(seed, count, modalities, scratch, *files):
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", ImageReadWarning)
    path = Path(scratch) / "mutant.dcm"
    sources = [Path(file).read_bytes() for file in files]
    for number in range(int(seed), int(seed) + int(count)):
        random = np.random.default_rng(number)
        which = int(random.integers(len(files)))
        mutation = MUTATIONS[number % len(MUTATIONS)]
        path.write_bytes(mutation(sources[which], random))
        report = {"number": number, "file": files[which], "mutation": mutation.__name__}
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
        start = time.process_time()
        report["outcome"] = read(path, modalities.split(","))
        report["seconds"] = time.process_time() - start
        report["peak_mib"] = peak_mebibytes()
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
