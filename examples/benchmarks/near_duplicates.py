"""
How near near duplicates are
============================

The bits by which copies of a picture differ from it, by kind of copy; how many pairs of pictures
differ by how little; whether names of Kermany's pictures with the same number mean one patient; and
what `find_near_duplicates` finds with its default threshold, in what time.

    python examples/benchmarks/near_duplicates.py kermany_dev.npz \\
        [--files FOLDER] [--picture pairs.png]
"""

import argparse
import io
import re
import time
from collections import defaultdict
from itertools import chain, combinations, product
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from otcxr_sk.datasets import find_near_duplicates
from otcxr_sk.images import ArraySource
from otcxr_sk.plotting import NearDuplicatesDisplay

MARGINS = (0, 5, 50, 95, 100)


def compressed(picture):
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=30)
    return Image.open(stream)


def curve(exponent):
    table = [round(255 * (level / 255) ** exponent) for level in range(256)]
    return lambda picture: picture.point(table)


def cropped(share):
    def crop(picture):
        width, height = picture.size
        x, y = round(share * width), round(share * height)
        return picture.crop((x, y, width - x, height - y)).resize(picture.size, 2)

    return crop


COPIES = {
    "JPEG of quality 30": compressed,
    "half the size": lambda picture: picture.resize([side // 2 for side in picture.size], 2),
    "gamma 1.3": curve(1.3),
    "gamma 0.7": curve(0.7),
    "contrast times 1.3, clipped": lambda picture: picture.point(lambda level: 1.3 * level - 28),
    "histogram equalised": ImageOps.equalize,
    "turned by 2 degrees": lambda picture: picture.rotate(2, 2),
    "2 % cropped on each side": cropped(0.02),
    "4 % cropped on each side": cropped(0.04),
}


def distances(images, copies):
    """Bits that each picture and its copy differ by."""
    pairs = np.concatenate([images, copies])
    n = len(images)
    found = find_near_duplicates(pairs, threshold=254)
    own = found.pairs[:, 1] - found.pairs[:, 0] == n
    return found.distance[own]


def row(label, values):
    cells = "  ".join(f"{value:5.0f}" for value in np.percentile(values, MARGINS))
    print(f"{label:<32}{cells}", flush=True)


def copies_table(images, chosen):
    print(f"bits of 255 that copies differ by: percentiles {MARGINS}, {len(chosen)} pictures")
    for name, change in COPIES.items():
        copies = [
            np.asarray(change(Image.fromarray(images[i])).resize(images.shape[:0:-1], 2))
            for i in chosen
        ]
        row(name, distances(images[chosen], np.stack(copies)))


def pairs_table(found, labels):
    n = len(found.source)
    print(f"\n{n * (n - 1) // 2} pairs of {n} pictures: how many within a distance")
    print("bits                  " + "".join(f"{bits:>7}" for bits in range(32, 61, 4)))
    first, second = found.pairs.T
    for name, which in (
        ("of different patients", found.across_groups),
        ("of one patient", ~found.across_groups),
        ("of different labels", labels[first] != labels[second]),
    ):
        counts = [(found.distance[which] <= bits).sum() for bits in range(32, 61, 4)]
        print(f"{name:<22}" + "".join(f"{count:>7}" for count in counts))


def likeness_table(images, names, random):
    """Correlation of pictures at 64 x 64 whose names have the same number, and of any two."""
    pixels = ArraySource(images).read(range(len(images)), 64).reshape(len(images), -1)
    pixels -= pixels.mean(axis=1, keepdims=True)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    kinds = {"bacteria": defaultdict(list), "virus": defaultdict(list)}
    for i, name in enumerate(names):
        if match := re.match(r"person(\d+)_(bacteria|virus)", str(name)):
            kinds[match[2]][match[1]].append(i)
    bacteria, virus = kinds.values()
    same = [two for of in kinds.values() for rows in of.values() for two in combinations(rows, 2)]
    number = [two for of in set(bacteria) & set(virus) for two in product(bacteria[of], virus[of])]
    some = [random.choice(list(chain(*of.values())), 20_000) for of in kinds.values()]
    print("\ncorrelation of two pictures: quartiles, pairs")
    for label, pairs in (
        ("same number, same kind", same),
        ("same number, bacteria and virus", number),
        ("any number, bacteria and virus", list(zip(*some, strict=True))),
    ):
        first, second = np.array(pairs).T
        quartiles = np.percentile((pixels[first] * pixels[second]).sum(axis=1), (25, 50, 75))
        cells = "  ".join(f"{value:.3f}" for value in quartiles)
        print(f"{label:<34}{cells}  {len(pairs)}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("data", help=".npz: images, patient_ids, file_names, labels3 (or labels)")
    parser.add_argument("--copies", type=int, default=600, help="pictures that are copied")
    parser.add_argument("--files", type=Path, help="folder of pictures, to time reading them, too")
    parser.add_argument("--picture", type=Path, help="draw the pairs most alike to this file")
    options = parser.parse_args(argv)
    with np.load(options.data, allow_pickle=False) as stored:
        images, patients, names = (stored[k] for k in ("images", "patient_ids", "file_names"))
        labels = stored["labels3" if "labels3" in stored else "labels"]
    random = np.random.default_rng(0)
    copied = random.choice(len(images), min(options.copies, len(images)), replace=False)
    copies_table(images, copied)
    pairs_table(find_near_duplicates(images, patients, threshold=60), labels)
    likeness_table(images, names, random)
    sources = {"array": images}
    if options.files:
        sources["files"] = sorted(file for file in options.files.rglob("*") if file.is_file())
    print()
    for name, source in sources.items():
        began = time.perf_counter()
        found = find_near_duplicates(source)
        print(f"{name}: {found}\n{time.perf_counter() - began:.1f} s")
    if options.picture:
        alike = find_near_duplicates(images, patients, threshold=44)
        figure = NearDuplicatesDisplay(alike).plot(most=9, columns=3).figure_
        figure.savefig(options.picture, dpi=90)


if __name__ == "__main__":
    main()
