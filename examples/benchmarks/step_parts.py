"""
Where the time and the memory of a step go
==========================================

Parts of a training step as shares of it, how cost grows with tokens and images, and peak memory
beside the encoder's own. Medians and range over alternating repeats in one run, on noise.

    python examples/benchmarks/step_parts.py [--repeats 5] [--out parts.csv]

Tokens of an encoder that is not trained are matched in some ten iterations. Trained ones may need
the fifty that are allowed, so transport is given with these, too.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from one_step import OneStep
from peers.report import write_csv
from source_cost import write_files
from step_cost import compare

from otcxr_sk.images import PathSource

COUNTED = Path("/proc/self/clear_refs")

# Image size and match_stride for 49, 196 and 784 tokens.
TOKENS = ((224, 32), (224, 16), (448, 16))


def share(part, whole):
    """Median, least and greatest ratio, repeat by repeat."""
    ratios = part / whole
    return {
        "share": float(np.median(ratios)),
        "low": float(ratios.min()),
        "high": float(ratios.max()),
    }


def show(row):
    seconds = f"{row['seconds']:8.4f} s" if "seconds" in row else 10 * " "
    told = f"{row['share']:6.3f} ({row['low']:.3f} to {row['high']:.3f})"
    wanted = f", wanted {row['wanted']}" if row.get("wanted") else ""
    print(f"  {row['part']:<58}{seconds}  {told}{wanted}", flush=True)


def parts(options, precision):
    """Rows of the table: every part of a step, and what the library adds to the encoder."""
    size, batch = options.size, options.batch
    step = OneStep(options.encoder, size, batch, precision)
    with tempfile.TemporaryDirectory() as folder:
        source = PathSource(write_files(Path(folder), batch, 256))

        def whole():
            source.read(range(batch), size)
            step.note(*step.learn())
            step.adamw.step()
            step.adamw.zero_grad()

        terms, embedding = step.learn()
        taken = compare(
            options.repeats,
            whole=whole,
            encoder=step.encode,
            heads=step.heads,
            transport=step.transport,
            views=step.draw,
            read=lambda: source.read(range(batch), size),
            note=lambda: step.note(terms, embedding),
            update=step.adamw.step,
            epoch=step.end_epoch,
        )
    added = taken["heads"] + taken["views"] + taken["note"]
    rest = taken["whole"] - taken["encoder"] - taken["read"] - taken["update"]
    named = {
        "encoder, forward and backward": taken["encoder"],
        "heads, transport and losses": taken["heads"],
        "  of these, transport": taken["transport"],
        "two views of every image": taken["views"],
        "reading (PNG, 256 px), by no worker": taken["read"],
        "optimiser (AdamW)": taken["update"],
        "history and the check of the loss": taken["note"],
        "after every epoch: health, check, copy of the weights": taken["epoch"],
        "what the library adds: heads, views, history": added,
        "whole step less encoder, reading and optimiser": rest,
    }
    print(f"{options.encoder}, {size} px, batch {batch}, {step.name}: ", end="")
    print(f"{np.median(taken['whole']):.3f} s a step")
    rows = []
    for part, seconds in named.items():
        limit = {"what": "<= 0.15"}.get(part.split()[0], "")
        found = {"seconds": float(np.median(seconds)), **share(seconds, taken["whole"])}
        rows.append({"precision": step.name, "part": part, **found, "wanted": limit})
        show(rows[-1])
    return rows


def by_tokens(options):
    """Rows: transport as a share of the step, by number of tokens."""
    batch = options.curve_batch
    print(f"{options.encoder}, transport / step, by tokens; batch {batch}")
    rows = []
    for size, stride in options.tokens:
        step = OneStep(options.encoder, size, batch, "auto", match_stride=stride)
        taken = compare(
            options.repeats, step=step.learn, transport=step.transport, plan=step.longest_plan
        )
        limit = "<= 0.25" if step.n_tokens == 784 else ""
        for part, label in (("transport", "transport"), ("plan", "plan, 50 iterations")):
            found = {"seconds": float(np.median(taken[part]))}
            found |= share(taken[part], taken["step"])
            told = f"{step.n_tokens} tokens, {size} px, {label}"
            rows.append({"precision": step.name, "part": told, **found, "wanted": limit})
            show(rows[-1])
        print(f"    step {1000 * np.median(taken['step']) / batch:.2f} ms an image")
    return rows


def by_images(options):
    """Rows: time for an image in larger batches over that in a small one."""
    size, stride = options.tokens[1]
    batches = [options.curve_batch * k for k in (1, 2, 4)]
    steps = [OneStep(options.encoder, size, b, "auto", match_stride=stride) for b in batches]
    works = {f"step {step.batch}": step.learn for step in steps}
    works |= {f"transport {step.batch}": step.transport for step in steps}
    taken = compare(options.repeats, **works)
    rows = []
    for part in ("step", "transport"):
        least, *more = (taken[f"{part} {batch}"] / batch for batch in batches)
        for batch, seconds in zip(batches[1:], more, strict=True):
            label = f"{part} an image, batch {batch} / batch {batches[0]}"
            limit = "1: linear in images"
            rows.append({"part": label, **share(seconds, least), "wanted": limit})
            show(rows[-1])
    return rows


def peak(options, work, precision):
    """Memory, in MiB, that two rounds of a work take at most, beyond weights and images (Linux)."""
    words = f"--encoder {options.encoder} --size {options.size} --batch {options.batch}"
    command = [sys.executable, __file__, *words.split(), "--peak", work, precision]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def print_peak(options):
    work, precision = options.peak
    step = OneStep(options.encoder, options.size, options.batch, precision)
    step.images  # noqa: B018
    COUNTED.write_text("5")  # the peak so far is forgotten
    before = resident("VmRSS")
    for _ in range(2):  # gradients are there from the first on
        {"encoder": step.encode, "step": step.learn}[work]()
    print(resident("VmHWM") - before)


def resident(which):
    """Memory of this process now or at most, in MiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(which)) / 1024


def memory(options):
    """Rows: peak of a step over that of the encoder alone on two such views."""
    rows = []
    print(f"{options.encoder}, {options.size} px, batch {options.batch}: peak memory")
    for precision in options.precisions:
        bare, ours = (
            np.array([peak(options, work, precision) for _ in range(options.processes)])
            for work in ("encoder", "step")
        )
        label = f"step / encoder, {np.median(ours):.0f} / {np.median(bare):.0f} MiB, {precision}"
        rows.append(
            {"precision": precision, "part": label, **share(ours, bare), "wanted": "<= 1.2"}
        )
        show(rows[-1])
    return rows


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", help="write all rows to this CSV")
    parser.add_argument("--quick", action="store_true", help="small and few, to try the script")
    parser.add_argument("--peak", nargs=2, metavar=("WORK", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.tokens, options.curve_batch, options.processes = TOKENS, 16, 3
    options.precisions = ("auto", "float32")
    if options.peak:
        print_peak(options)
        return
    if options.quick:
        options.encoder, options.size, options.batch = "resnet10t", 32, 4
        options.tokens, options.curve_batch = ((32, 16), (32, 8), (64, 8)), 4
        options.repeats = options.processes = 1
        options.precisions = ("float32",)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    rows = [row for precision in options.precisions for row in parts(options, precision)]
    rows += [*by_tokens(options), *by_images(options), *memory(options)]
    if options.out:
        columns = ("precision", "part", "seconds", "share", "low", "high", "wanted")
        write_csv([{name: row.get(name, "") for name in columns} for row in rows], options.out)


if __name__ == "__main__":
    main()
