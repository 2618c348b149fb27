"""Damages files as disks and networks do, and runs what reads them in bounded resources."""

import json
import os
import resource
import subprocess
import sys

# For each file, of processor time, since the machine may be shared, and of memory.
SECONDS, MEBIBYTES = 2, 512


def limit_memory():
    """Let this process take no more memory than the bound beyond what it has."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limit = used + MEBIBYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def reports_of(*command):
    """Run Python, and return what it prints as lines of JSON; fail if it does not end well."""
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=False, env=here
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {reports[-1:]}: {done.stderr[-2000:]}"
    return reports


def damaged(draw, whole):
    """Flip, overwrite, cut out, double or exchange some bytes."""
    raw = bytearray(whole)
    # Headers do the most harm; here they lie at the start or at the end.
    for _ in range(draw.choice([1, 1, 2, 5])):
        size = len(raw)
        reach = draw.choice([(0, size), (0, min(size, 120)), (max(0, size - 120), size)])
        place, length = draw.randrange(*reach) if size else 0, draw.randint(1, 64)
        match draw.randrange(6):
            case 0 if size:
                raw[place] ^= 1 << draw.randrange(8)
            case 1:
                raw[place : place + 1] = bytes([draw.randrange(256)])
            case 2:
                raw[place : place + 4] = draw.choice([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"])
            case 3:
                del raw[place : place + length]
            case 4:
                raw[place:place] = raw[place : place + length]
            case 5:
                other = draw.randrange(size) if size else 0
                raw[place : place + length] = raw[other : other + length]
    return bytes(raw[: draw.randint(0, len(raw))] if draw.random() < 0.1 else raw)
