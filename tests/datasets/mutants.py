"""Read data sets whose tables are damaged, in a process with limited memory, and report on each.

Arguments: a JSON file with the folder, the reader and the damaged files of each set, and how many
times to damage each.
"""

import gzip
import io
import json
import random
import re
import sys
import time
import traceback
import warnings
import zipfile
from pathlib import Path

from bounded import damaged, limit_memory
from words import foreign

from otcxr_sk import datasets
from otcxr_sk._files import open_file
from otcxr_sk.datasets.published import _medmnist
from otcxr_sk.images import ImageReadError

VALUES = [
    *("", "-1", "0", "1", "2", "1e300", "-1e308", "nan", "inf", "None", "1_0", "0x1", "٣"),
    *("..", "../../secret", "/etc/passwd", "C:\\x", "a/../../b", "a|b", ".", "~", "con"),
    *("\x1b[2J\x1b]0;x\x07", "\0", "\r", "\n", '"', '""', "'", ",", ";", "\t", "é", "\ufeff"),
    *("x" * 5000, "9" * 5000, "9 " * 5000, "x," * 5000, "x\n" * 500, "[" * 5000, "{}", "null"),
    *("\u202e", "[]", "-1 5 3 99999999999999999999"),
]  # fmt: skip


def reword(chance, text):
    """Put something else in the place of some values or columns."""
    parts = re.split(r"([,\n\t :\[\]{}()'\"]+)", text)
    for _ in range(chance.choice([1, 1, 2, 5])):
        place = chance.randrange(len(parts))
        match chance.randrange(4):
            case 0:
                parts[place] += chance.choice(VALUES)
            case 1:
                del parts[place : place + chance.randrange(1, 20)]
                parts.append("")
            case 2:
                other = chance.randrange(len(parts))
                parts[place], parts[other] = parts[other], parts[place]
            case 3:
                parts[place] = chance.choice(VALUES)
    return "".join(parts)


def mutated(chance, name, whole):
    """Damage a file, or what is in it."""
    if chance.random() < 0.3:
        return damaged(chance, whole)
    if name.endswith(".gz"):
        return gzip.compress(mutated(chance, name.removesuffix(".gz"), gzip.decompress(whole)))
    if not name.endswith(".npz"):
        return reword(chance, whole.decode()).encode("utf-8", "surrogatepass")
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(file, "w", 8) as new:
        chosen = chance.choice(old.namelist())
        for member in old.namelist():
            content = old.read(member)
            if member == chosen:
                head = content[10:].index(b"\n") + 11
                if chance.random() < 0.5:
                    told = reword(chance, content[10:head].decode()).encode()
                    length = len(told).to_bytes(4, "little")[:2]
                    content = content[:8] + length + told + content[head:]
                else:
                    content = content[:head] + damaged(chance, content[head:])
            new.writestr(member, content)
    return file.getvalue()


def load(reader, folder):
    if reader == "fetch_medmnist":
        # As if the published archive were damaged.
        _medmnist.fetch = lambda _, path, *__: open_file(path)
        return datasets.fetch_medmnist("pneumoniamnist", data_home=folder)
    data = getattr(datasets, reader)(
        folder / "data.npz" if (folder / "data.npz").exists() else folder
    )
    for masks in (value for name, value in data.items() if name.endswith("_masks")):
        for row in range(len(masks)):
            masks[row]
    return data


def end_of(reader, folder):
    """Return "result", "error", or what is wrong with the error."""
    try:
        load(reader, folder)
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        if type(error) not in (ValueError, FileNotFoundError, ImageReadError):
            return traceback.format_exc()
        named = str(folder) in text or text.startswith("the mask of ")
        plain = text.replace("\n", "").isprintable() and len(text) < 3000 and not foreign(text)
        return "error" if named and plain else text
    except BaseException:
        return traceback.format_exc()
    return "result"


def main():
    sets, times = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2])
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", datasets.PatientsUnknownWarning)
    for folder, reader, _ in sets:
        assert end_of(reader, Path(folder)) == "result", (reader, end_of(reader, Path(folder)))
    limit_memory()
    for folder, reader, files in sets:
        for number in range(times):
            name = files[number % len(files)]
            file = Path(folder, name)
            whole = file.read_bytes()
            file.write_bytes(mutated(random.Random(f"{reader} {number}"), name, whole))
            began = time.process_time()
            end = end_of(reader, Path(folder))
            took = time.process_time() - began
            file.write_bytes(whole)
            sys.stdout.write(json.dumps([f"{reader} {name} {number}", end, took]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
