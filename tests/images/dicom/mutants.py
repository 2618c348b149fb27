"""Read damaged copies of DICOM files and print a report on each; run as a subprocess.

python mutants.py COUNT MODALITIES SCRATCH FILE...
"""

import json
import random
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from bounded import damaged

from otcxr_sk.images import ImageReadError, ImageReadWarning, read_dicom


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


def main(count, modalities, scratch, *files):
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", ImageReadWarning)
    path = Path(scratch) / "mutant.dcm"
    sources = [Path(file).read_bytes() for file in files]
    for number in range(int(count)):
        draw = random.Random(number)
        which = draw.randrange(len(files))
        path.write_bytes(damaged(draw, sources[which], near=2048))
        report = {"number": number, "file": files[which]}
        start = time.process_time()
        report["outcome"] = read(path, modalities.split(","))
        report["seconds"] = time.process_time() - start
        report["peak_mib"] = peak_mebibytes()
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
