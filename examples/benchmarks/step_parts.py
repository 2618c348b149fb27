"""
Where the time and the memory of a step go
==========================================

Parts of a training step as shares of it, beside timm's model alone; how many functions of ATen a
step asks its device for; how the cost grows with tokens and images; and peak memory compared with
the encoder alone. Medians and range over repeats, taken in turns, on noise.

    python examples/benchmarks/step_parts.py [--repeats 5] [--device cuda] [--out parts.csv]

On the CPU, tokens of an untrained encoder are matched in about ten iterations. Those of a trained
one may need all fifty that are allowed, so the plan is timed with fifty, too. A GPU does fifty
always. It trains while the next images are read, so that reading is no part of its step; and it is
waited for after every part, so that nothing overlaps.

What a GPU is asked for is counted on it or, with ``--device cpu``, on tensors without numbers.
"""

import argparse
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from asked import META, Asked, no_autocast
from devices import add_device
from one_step import OneStep
from results import write_csv
from source_cost import write_files
from timing import median_and_range, time_in_turns

from otcxr_sk import Optimizer
from otcxr_sk.images import PathSource

COUNTED = Path("/proc/self/clear_refs")

# Image size and match_stride for 49, 196 and 784 tokens.
TOKENS = ((224, 32), (224, 16), (448, 16))


def share(part, whole):
    """Return the median and the range of the ratios of each repeat."""
    return dict(zip(("share", "low", "high"), median_and_range(part / whole), strict=True))


def show(row):
    seconds = f"{row['seconds']:8.4f} s" if "seconds" in row else 10 * " "
    shares = f"{row['share']:6.3f} ({row['low']:.3f} to {row['high']:.3f})"
    target = f", target {row['target']}" if row.get("target") else ""
    print(f"  {row['part']:<58}{seconds}  {shares}{target}", flush=True)


def parts(options, precision):
    """Return rows for every part of a step, and for what the library adds to the encoder."""
    size, batch = options.size, options.batch
    step = OneStep(options.encoder, size, batch, precision, device=options.device)
    reads = step.device.type == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        source = PathSource(write_files(Path(folder), batch, 256))

        def whole():
            if reads:
                source.read(range(batch), size)
            step.record(*step.learn())
            step.optimizer.step()
            step.optimizer.zero_grad()

        terms, embedding = step.learn()
        taken = time_in_turns(
            options.repeats,
            device=options.device,
            whole=whole,
            bare=step.bare(),
            encoder=step.encode,
            heads=step.heads,
            transport=step.transport,
            read_out=step.read,
            views=step.draw,
            read=lambda: source.read(range(batch), size),
            record=lambda: step.record(terms, embedding),
            update=step.optimizer.step,
            epoch=step.end_epoch,
        )
    added = taken["heads"] + taken["views"] + taken["record"]
    rest = taken["whole"] - taken["encoder"] - reads * taken["read"] - taken["update"]
    named = {
        "bare encoder: timm's model alone, and its optimizer": taken["bare"],
        "encoder, forward and backward": taken["encoder"],
        "heads, transport and losses": taken["heads"],
        "  of these, transport": taken["transport"],
        "  of these, the read-out": taken["read_out"],
        "two views of every image": taken["views"],
        "reading (PNG, 256 px), by no worker": taken["read"],
        "optimizer (AdamW)": taken["update"],
        "history and the check of the loss": taken["record"],
        "after every epoch: health, check, copy of the weights": taken["epoch"],
        "what the library adds: heads, views, history": added,
        f"whole step less encoder, {'reading ' if reads else ''}and optimizer": rest,
    }
    print(f"{options.encoder}, {size} px, batch {batch}, {step.arithmetic}: ", end="")
    print(f"{np.median(taken['whole']):.3f} s per step")
    rows = []
    for part, seconds in named.items():
        target = {"what": "<= 0.15"}.get(part.split()[0], "")
        found = {"seconds": float(np.median(seconds)), **share(seconds, taken["whole"])}
        rows.append({"precision": step.arithmetic, "part": part, **found, "target": target})
        show(rows[-1])
    return rows


def asked(options, precision):
    """Return rows for the functions of ATen and the numbers that a GPU is asked for in a step."""
    if options.device == "cpu":
        device, where, precision = META, "on tensors without numbers", "float32"
    else:
        device, where = options.device, f"on {options.device}"
    step = OneStep(options.encoder, options.size, options.batch, precision, device=device)
    with no_autocast() if step.device == META else nullcontext():
        step.maps, step.tokens  # noqa: B018
        loss = step.heads_forward()
        functions = {
            "two views of every image": step.draw,
            "encoder, forward and backward": step.encode,
            "heads, transport and losses, forward": step.heads_forward,
            "heads, transport and losses, backward": loss.backward,
        }
        counts = {part: counted(function, step.device) for part, function in functions.items()}
        transport = counted(step.transport, step.device)
    counts["optimizer (AdamW, fused)"] = counted(*fused(step))
    numbers = {part: (count.total, count.waits) for part, count in counts.items()}
    numbers["all of these"] = tuple(map(sum, zip(*numbers.values(), strict=True)))
    numbers["transport alone, forward and backward"] = transport.total, transport.waits
    print(f"{options.encoder}, {step.arithmetic}: functions asked for, counted {where}")
    rows = []
    for part, (total, waits) in numbers.items():
        found = {"asked": total, "waits": waits}
        rows.append({"precision": step.arithmetic, "part": f"asked: {part}", **found})
        print(f"  {part:<58}{total:8d}    {waits} numbers waited for", flush=True)
    return rows


def counted(function, device):
    with Asked(device) as count:
        function()
    return count


def fused(step):
    """Return a step of the optimizer that a GPU has, and where it is made."""
    model, optimizer = step.model, step.optimizer
    if step.device == META:
        # It does not know this device. On the CPU, it is asked for the same.
        model = model.to_empty(device="cpu")
        optimizer = Optimizer().build(model, on_gpu=True)
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    return optimizer.step, next(model.parameters()).device


def by_tokens(options):
    """Return rows for transport as a share of the step, by number of tokens."""
    batch = options.curve_batch
    print(f"{options.encoder}, transport / step, by tokens; batch {batch}")
    rows = []
    for size, stride in options.tokens:
        step = OneStep(options.encoder, size, batch, "auto", stride, options.device)
        taken = time_in_turns(
            options.repeats,
            device=options.device,
            step=step.learn,
            transport=step.transport,
            plan=step.longest_plan,
        )
        target = "<= 0.25" if step.n_tokens == 784 else ""
        for part, label in (("transport", "transport"), ("plan", "plan, 50 iterations")):
            found = {"seconds": float(np.median(taken[part]))}
            found |= share(taken[part], taken["step"])
            label = f"{step.n_tokens} tokens, {size} px, {label}"
            rows.append({"precision": step.arithmetic, "part": label, **found, "target": target})
            show(rows[-1])
        print(f"    step {1000 * np.median(taken['step']) / batch:.2f} ms per image")
    return rows


def by_images(options):
    """Return rows for the time per image in larger batches over that in a small one."""
    size, stride = options.tokens[1]
    batches = [options.curve_batch * k for k in (1, 2, 4)]
    steps = [OneStep(options.encoder, size, b, "auto", stride, options.device) for b in batches]
    functions = {f"step {step.batch}": step.learn for step in steps}
    functions |= {f"transport {step.batch}": step.transport for step in steps}
    taken = time_in_turns(options.repeats, device=options.device, **functions)
    rows = []
    for part in ("step", "transport"):
        least, *more = (taken[f"{part} {batch}"] / batch for batch in batches)
        for batch, seconds in zip(batches[1:], more, strict=True):
            label = f"{part} per image, batch {batch} / batch {batches[0]}"
            target = "1: linear in images"
            rows.append({"part": label, **share(seconds, least), "target": target})
            show(rows[-1])
    return rows


def peak(options, part, precision):
    """Return the peak memory of two rounds in MiB, beyond weights and images.

    On the CPU it is that of a new process (Linux).
    """
    if options.device.startswith("cuda"):
        return rise(options, part, precision)
    words = f"--encoder {options.encoder} --size {options.size} --batch {options.batch}"
    command = [sys.executable, __file__, *words.split(), "--peak", part, precision]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def rise(options, part, precision):
    """Return by how many MiB memory rises in two rounds."""
    step = OneStep(options.encoder, options.size, options.batch, precision, device=options.device)
    step.images  # noqa: B018
    on_gpu = step.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(step.device)
        before = torch.cuda.memory_allocated(step.device) / 2**20
    else:
        COUNTED.write_text("5")  # resets the peak
        before = resident("VmRSS")
    for _ in range(2):  # the second starts with gradients, as later steps do
        {"encoder": step.encode, "step": step.learn}[part]()
    after = torch.cuda.max_memory_allocated(step.device) / 2**20 if on_gpu else resident("VmHWM")
    return after - before


def resident(which):
    """Return the memory of this process, now or at its peak, in MiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(which)) / 1024


def memory(options):
    """Return rows for the peak of a step over that of the encoder alone on the same views."""
    rows = []
    print(f"{options.encoder}, {options.size} px, batch {options.batch}: peak memory")
    for precision in options.precisions:
        bare, ours = (
            np.array([peak(options, part, precision) for _ in range(options.processes)])
            for part in ("encoder", "step")
        )
        label = f"step / encoder, {np.median(ours):.0f} / {np.median(bare):.0f} MiB, {precision}"
        rows.append(
            {"precision": precision, "part": label, **share(ours, bare), "target": "<= 1.2"}
        )
        show(rows[-1])
    return rows


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Where the time and memory of a step go.")
    add_device(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", help="CSV file to write all rows to")
    parser.add_argument("--quick", action="store_true", help="tiny, to try the script")
    parser.add_argument("--peak", nargs=2, metavar=("PART", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.tokens, options.curve_batch, options.processes = TOKENS, 16, 3
    options.precisions = ("auto", "float32")
    if options.peak:
        print(rise(options, *options.peak))
        return
    if options.quick:
        options.encoder, options.size, options.batch = "resnet10t", 32, 4
        options.tokens, options.curve_batch = ((32, 16), (32, 8), (64, 8)), 4
        options.repeats = options.processes = 1
        options.precisions = ("float32",)
    print(f"{options.device}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    rows = [row for precision in options.precisions for row in parts(options, precision)]
    rows += [*asked(options, "auto"), *by_tokens(options), *by_images(options), *memory(options)]
    if options.out:
        columns = ("precision", "part", "seconds", "share", "low", "high", "target")
        columns += ("asked", "waits")
        rows = [{name: row.get(name, "") for name in columns} for row in rows]
        write_csv(rows, options.out, digits=5)


if __name__ == "__main__":
    main()
