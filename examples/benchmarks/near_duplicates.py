"""
How similar near duplicates are
===============================

Prints by how many bits of the hash copies of an image differ from it, by kind of copy; how many
pairs of images differ by how little; whether equal numbers in Kermany's file names mean one
patient; and what `find_near_duplicates` finds with its default threshold, and how long it takes.

    python examples/benchmarks/near_duplicates.py kermany_dev.npz \\
        [--files FOLDER] [--figure pairs.png]
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
from study import read_npz

from otcxr_sk.datasets import find_near_duplicates
from otcxr_sk.evaluation import pixel_features
from otcxr_sk.plotting import NearDuplicatesDisplay

PERCENTILES = (0, 5, 50, 95, 100)
BITS = range(32, 61, 4)


def compressed(image):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=30)
    return Image.open(stream)


def curve(exponent):
    table = [round(255 * (level / 255) ** exponent) for level in range(256)]
    return lambda image: image.point(table)


def cropped(share):
    def crop(image):
        width, height = image.size
        x, y = round(share * width), round(share * height)
        return image.crop((x, y, width - x, height - y)).resize(image.size, 2)

    return crop


COPIES = {
    "JPEG of quality 30": compressed,
    "half the size": lambda image: image.resize([side // 2 for side in image.size], 2),
    "gamma 1.3": curve(1.3),
    "gamma 0.7": curve(0.7),
    "contrast times 1.3, clipped": lambda image: image.point(lambda level: 1.3 * level - 28),
    "histogram equalised": ImageOps.equalize,
    "turned by 2 degrees": lambda image: image.rotate(2, 2),
    "2 % cropped on each side": cropped(0.02),
    "4 % cropped on each side": cropped(0.04),
}


def distances(images, copies):
    """Return the number of bits that each image and its copy differ by."""
    n = len(images)
    found = find_near_duplicates(np.concatenate([images, copies]), threshold=254)
    own = found.pairs[:, 1] - found.pairs[:, 0] == n
    return found.distance[own]


def print_copies(images):
    print(f"bits of 255 that copies differ by: percentiles {PERCENTILES}, {len(images)} images")
    for name, change in COPIES.items():
        copies = [
            np.asarray(change(Image.fromarray(pixels)).resize(pixels.shape[::-1], 2))
            for pixels in images
        ]
        found = np.percentile(distances(images, np.stack(copies)), PERCENTILES)
        print(f"{name:<32}" + "  ".join(f"{bits:5.0f}" for bits in found), flush=True)


def print_pairs(found, labels):
    n = len(found.source)
    print(f"\n{n * (n - 1) // 2} pairs of {n} images: how many within a distance")
    print("bits                  " + "".join(f"{bits:>7}" for bits in BITS))
    first, second = found.pairs.T
    for name, which in (
        ("of different patients", found.across_groups),
        ("of one patient", ~found.across_groups),
        ("of different labels", labels[first] != labels[second]),
    ):
        counts = [(found.distance[which] <= bits).sum() for bits in BITS]
        print(f"{name:<22}" + "".join(f"{count:>7}" for count in counts))


def print_correlations(images, names, random):
    """Print correlations at 64 x 64 pixels, of images with the same number and of any two."""
    pixels = pixel_features(images, 64)
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
    print("\ncorrelation of two images: quartiles, number of pairs")
    for label, pairs in (
        ("same number, same kind", same),
        ("same number, bacteria and virus", number),
        ("any number, bacteria and virus", list(zip(*some, strict=True))),
    ):
        first, second = np.array(pairs).T
        quartiles = np.percentile((pixels[first] * pixels[second]).sum(axis=1), (25, 50, 75))
        cells = "  ".join(f"{value:.3f}" for value in quartiles)
        print(f"{label:<34}{cells}  {len(pairs)}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="How similar near duplicates are.")
    parser.add_argument("data", help=".npz with images, patient_ids, file_names and the classes")
    parser.add_argument("--classes", default="labels3", metavar="COLUMN")
    parser.add_argument("--copies", type=int, default=600, help="images that are copied")
    parser.add_argument("--files", type=Path, help="folder of images; times reading them, too")
    parser.add_argument("--figure", type=Path, help="file to draw the most similar pairs to")
    options = parser.parse_args(arguments)
    images, patients, names, labels = read_npz(options.data, "file_names", options.classes)
    random = np.random.default_rng(0)
    copied = random.choice(len(images), min(options.copies, len(images)), replace=False)
    print_copies(images[copied])
    print_pairs(find_near_duplicates(images, patients, threshold=BITS[-1]), labels)
    print_correlations(images, names, random)
    sources = {"array": images}
    if options.files:
        sources["files"] = sorted(file for file in options.files.rglob("*") if file.is_file())
    print()
    for name, source in sources.items():
        started = time.perf_counter()
        found = find_near_duplicates(source)
        print(f"{name}: {found}\n{time.perf_counter() - started:.1f} s")
    if options.figure:
        alike = find_near_duplicates(images, patients, threshold=44)
        figure = NearDuplicatesDisplay(alike).plot(most=9, columns=3).figure_
        figure.savefig(options.figure, dpi=90)


if __name__ == "__main__":
    main()
