"""Damages files as disks, networks and attackers do, and reads them in bounded resources.

As a script, reads what `write_mutants` wrote in a process with limited memory, and reports on each.
Measures processor time, since the machine may be shared.
"""

import io
import json
import random
import resource
import sys
import time
import zipfile
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

from bounded import damaged, limit_memory, reports_of
from words import foreign

_NASTY = [
    None, True, -1, 0, 2**31, 2**63, 2**70, 10**400, -0.5, 1e308, float("nan"), float("inf"), "",
    "x" * 5000, "\x1b]0;x\x07\n", "\ud800", [], {}, [[]], [2**40] * 20, "F32", [0, 2**47],
]  # fmt: skip


def edited(draw, content):
    """Replace, remove or add one of the values of a JSON object."""
    places, todo = [], [content]
    while todo:
        value = todo.pop()
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            places.append((value, key))
            if isinstance(inner, dict | list):
                todo.append(inner)
    if places:
        value, key = draw.choice(places)
        match draw.randrange(4):
            case 0:
                del value[key]
            case 1 if isinstance(value, dict):
                value[draw.choice(["\x1b[2J", "", "y" * 2000, "epoch", "a"])] = value[key]
            case _:
                value[key] = draw.choice(_NASTY)
    return content


def of_json(draw, whole):
    """Return a mutant of a JSON file."""
    if draw.random() < 0.4:
        return damaged(draw, whole)
    content = edited(draw, json.loads(whole))
    if draw.random() < 0.05:
        return b"[" * 100_000
    return json.dumps(content, ensure_ascii=draw.random() < 0.9).encode("utf-8", "surrogatepass")


def of_safetensors(draw, whole):
    """Return a mutant of a safetensors file."""
    if draw.random() < 0.4:
        return damaged(draw, whole)
    length = int.from_bytes(whole[:8], "little")
    header, rest = whole[8 : 8 + length], whole[8 + length :]
    content = json.loads(header)
    numbers = content.get("__metadata__", {}).get("numbers")
    if numbers and draw.random() < 0.8:
        content["__metadata__"]["numbers"] = of_json(draw, numbers.encode()).decode("latin-1")
        header = json.dumps(content).encode()
    else:
        header = of_json(draw, header)
    claimed = draw.choice([len(header)] * 9 + [2**62])
    return claimed.to_bytes(8, "little") + header + rest


def of_zip(draw, whole):
    """Return a mutant of a zip file, whose checksums are correct where members are damaged."""
    if draw.random() < 0.4:
        return damaged(draw, whole)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive, zipfile.ZipFile(made, "w") as other:
        for member in archive.infolist():
            content = archive.read(member)
            if draw.random() < (0.9 if member.filename.endswith(".pkl") else 0.1):
                content = damaged(draw, content)
            packed = zipfile.ZIP_DEFLATED if draw.random() < 0.02 else zipfile.ZIP_STORED
            other.writestr(member.filename, content, packed)
    return made.getvalue()


def write_mutants(folder, kind, mutate, whole, number):
    """Write mutants of a file into folders of their own, named as a reader would look for them."""
    draw = random.Random(kind)
    for one in range(number):
        raw = mutate(draw, whole)
        place = folder / kind / f"{one:05}"
        place.mkdir(parents=True)
        name = f"checkpoint-{9:09}-{sha256(raw).hexdigest()}.safetensors" if kind == "run" else kind
        (place / name).write_bytes(raw)


def reports_on(folder):
    """Return (kind, name, end, seconds, MiB) for each; fail if one of them ends the process."""
    reports = reports_of(__file__, folder)
    assert len(reports) == len(list(folder.glob("*/*")))
    return reports


def _reader(kind):
    from otcxr_sk.method._weights import check_config, read_weights
    from otcxr_sk.training import describe

    heads = SimpleNamespace(blocks=[SimpleNamespace(attn=SimpleNamespace(num_heads=12))])
    if kind == "config.json":
        return lambda folder: check_config(folder / "w.safetensors", heads)
    if kind == "run":
        return describe
    return lambda folder: read_weights(folder / kind)


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _report(read, folder, before):
    began = time.process_time()
    try:
        shown = read(folder)
        end = "result"
        if isinstance(shown, str) and (len(shown) > 50_000 or "\x1b" in shown):
            end = f"it shows {shown[:1000]!r}"
    except ValueError as error:
        text = str(error)
        named = str(folder) in text and len(text) < 2000 and text.isprintable()
        theirs = foreign(text.replace("state dict", ""))
        end = "error" if type(error) is ValueError and named and not theirs else repr(error)
    took = time.process_time() - began
    report = [folder.parent.name, folder.name, end, took, _peak() - before]
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


def _main(folder):
    readers = {kind.name: _reader(kind.name) for kind in Path(folder).iterdir()}
    limit_memory()
    before = _peak()
    for one in sorted(Path(folder).glob("*/*")):
        _report(readers[one.parent.name], one, before)


if __name__ == "__main__":
    _main(sys.argv[1])
