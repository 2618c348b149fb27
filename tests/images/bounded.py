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


def reports_of(*command, quiet=False):
    """Run Python, and return what it prints as lines of JSON; fail if it does not end well.

    If `quiet`, nor may it, or a codec, complain.
    """
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=False, env=here
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {reports[-1:]}: {done.stderr[-2000:]}"
    assert not (quiet and done.stderr)
    return reports


# What lengths, sizes and offsets may be.
EXTREME = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]


def damaged(draw, whole, near=120):
    """Flip, overwrite, cut out, double or exchange some bytes.

    Headers do the most harm: they lie in the first or last `near` bytes.
    """
    raw = bytearray(whole)
    for _ in range(draw.choice([1, 1, 2, 5])):
        size = len(raw)
        reach = draw.choice([(0, size), (0, min(size, near)), (max(0, size - near), size)])
        place, length = draw.randrange(*reach) if size else 0, draw.randint(1, 64)
        match draw.randrange(6):
            case 0 if size:
                raw[place] ^= 1 << draw.randrange(8)
            case 1:
                raw[place : place + 1] = bytes([draw.randrange(256)])
            case 2:
                width = draw.choice([2, 4])
                value = draw.choice(EXTREME) % 256**width
                raw[place : place + width] = value.to_bytes(width, draw.choice(["little", "big"]))
            case 3:
                del raw[place : place + length]
            case 4:
                raw[place:place] = raw[place : place + length]
            case 5:
                other = draw.randrange(size) if size else 0
                raw[place : place + length] = raw[other : other + length]
    return bytes(raw[: draw.randint(0, len(raw))] if draw.random() < 0.1 else raw)
