"""The benchmarks of speed: they run, and they time what they claim to."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import bare
import communication
import overhead
import pytest
import step_parts
import timing
import torch
import training_speed
from one_step import OneStep
from results import read_csv
from torch.nn.modules.batchnorm import _BatchNorm

pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")


@pytest.fixture
def step():
    return OneStep("resnet10t", 32, 4, "float32", match_stride=8)


def test_the_heads_that_are_timed_compute_the_terms_of_the_model(step):
    views, affine = step.views_and_affine
    whole, _ = step.model(views, affine)
    part = step.model.terms(*step.maps[0], affine)
    for name, value in whole.items():
        torch.testing.assert_close(part[name], value)


def test_every_part_computes_its_gradients(step):
    step.encode()
    of_encoder = {id(value) for value in step.model.encoder.parameters()}
    assert {id(v) for v in step.model.parameters() if v.grad is not None} == of_encoder
    step.heads()
    assert all(value.grad is not None for value in step.model.parameters())
    step.read()
    step.transport()
    of_first, of_second = step.tokens.grad
    assert step.tokens.grad.isfinite().all()
    assert of_first.any()
    assert of_second.any()


def test_the_bare_encoder_learns_from_as_many_images_as_there_are_views(step, monkeypatch):
    seen = []
    build = bare.build_encoder

    def watched(*args, **kwargs):
        encoder = build(*args, **kwargs)
        encoder.backbone.register_forward_hook(lambda model, args, _: seen.append((model, *args)))
        return encoder

    monkeypatch.setattr(bare, "build_encoder", watched)
    learn = step.bare()
    seen.clear()
    learn()
    ((model, images),) = seen
    assert images.shape == step.views_and_affine[0].shape
    before = [value.clone() for value in model.parameters()]
    learn()
    assert not any(map(torch.equal, before, model.parameters()))


def test_what_a_device_has_been_asked_for_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(timing, "synchronize", lambda device: waited.append(device))
    clock = lambda: float(len(waited))  # noqa: E731
    seconds = timing.time_in_turns(2, device="cuda", clock=clock, one=int, two=int)
    assert waited == ["cuda"] * 6
    assert all((values == 1).all() for values in seconds.values())


@pytest.mark.slow
def test_fine_tuning_and_transform_are_told_beside_a_plain_loop_in_each_arithmetic(capsys):
    # Another name of the CPU, where the bare encoder is not always in float32.
    overhead.main(["--quick", "--device", "cpu:0"])
    printed = capsys.readouterr().out
    assert printed.count("fine-tuning / plain loop") == printed.count("4 images, images/s / bare")
    assert "bare float32" in printed


def asked(device):
    options = argparse.Namespace(encoder="resnet10t", size=32, batch=4, device=device)
    rows = step_parts.asked(options, "float32")
    return {row["part"].removeprefix("asked: "): (row["asked"], row["waits"]) for row in rows}


def test_what_a_gpu_is_asked_for_is_counted_without_one():
    counts = asked("cpu")
    assert not any(waits for _, waits in counts.values())
    transport, whole = (counts.pop(name)[0] for name in [*counts][:-3:-1])
    assert whole == sum(total for total, _ in counts.values())
    heads = [total for part, (total, _) in counts.items() if part.startswith("heads")]
    assert 0 < transport < sum(heads) < whole
    assert counts["optimizer (AdamW, fused)"][0] < 10


def test_numbers_that_are_waited_for_are_counted_on_the_device_itself():
    # Another name of the CPU, on which Sinkhorn looks at its marginals.
    counts = asked("cpu:0")
    assert counts["transport alone, forward and backward"][1] > 0
    assert counts["encoder, forward and backward"][1] == 0


@pytest.mark.slow
@pytest.mark.skipif(not step_parts.COUNTED.exists(), reason="peak memory is read from Linux")
def test_the_parts_of_a_step_its_tokens_and_its_memory_are_reported(tmp_path):
    out = tmp_path / "parts.csv"
    step_parts.main(["--quick", "--out", str(out)])
    rows = read_csv(out)
    shares = {row["part"]: float(row["share"]) for row in rows if row["share"]}
    assert len(shares) == 12 + 3 * 2 + 2 * 2 + 1
    assert sum(row["asked"] != "" for row in rows) == 7
    assert shares["  of these, transport"] > 0
    assert 0 < shares["two views of every image"] < 1
    assert any(part.startswith("64 tokens, 64 px, transport") for part in shares)
    (memory,) = [share for part, share in shares.items() if part.startswith("step / encoder")]
    assert 0.5 < memory < 5


@pytest.mark.slow
def test_fit_and_transform_are_told_as_a_share_of_the_bare_encoder(tmp_path):
    out = tmp_path / "speed.csv"
    # Another name of the CPU, for which there is no plain loop.
    training_speed.main(["--quick", "--device", "cpu:0", "--out", str(out)])
    rows = {row["what"]: row for row in read_csv(out)}
    limits = training_speed.LIMITS
    assert rows.keys() == limits.keys() | set(limits.values())
    for name, limit in limits.items():
        share = float(rows[name]["images_per_s"]) / float(rows[limit]["images_per_s"])
        assert float(rows[name]["share_of_bare"]) == pytest.approx(share, rel=1e-3)
    # Only the total includes the first epoch, the scan before it and building the model.
    fit = rows["fit, arrays"]
    assert 0 < float(fit["total_share_of_bare"]) < float(fit["share_of_bare"])


@pytest.mark.slow
def test_fit_and_the_plain_loop_are_timed_on_the_same_files(tmp_path):
    pytest.importorskip("lightly", reason='the plain loop needs "otcxr-sk[benchmarks]"')
    out = tmp_path / "speed.csv"
    training_speed.main(["--quick", "--out", str(out)])
    rows = {row["what"]: row for row in read_csv(out)}
    plain = float(rows["lightly, float32"]["images_per_s"])
    for name in training_speed.TARGETS.keys() | training_speed.PLAIN.keys():
        ratio = float(rows[name]["images_per_s"]) / plain
        assert float(rows[name]["times_lightly_float32"]) == pytest.approx(ratio, rel=1e-3)


def test_the_steps_of_any_optimizer_are_timed_at_their_ends():
    value = torch.nn.Parameter(torch.ones(1))
    value.grad = torch.ones(1)
    optimizer = torch.optim.SGD([value], lr=1.0)
    before = time.perf_counter()
    with training_speed.times_of_steps(2, 4, device="cpu") as times:
        for _ in range(3):
            optimizer.step()
        middle = time.perf_counter()
        optimizer.step()
    assert [before, times[0], middle, times[1]] == sorted([before, middle, *times])
    optimizer.step()
    assert len(times) == 2


@pytest.mark.slow
def test_the_plain_loop_sees_gray_views_and_learns(tmp_path):
    pytest.importorskip("lightly", reason='the plain loop needs "otcxr-sk[benchmarks]"')
    from plain_loop import PlainLoop

    paths = training_speed.write_images(tmp_path, training_speed.draw_images(8, 32))
    options = argparse.Namespace(batch=4, encoder="resnet10t")
    loop = PlainLoop(paths, options, 24, 0, mixed=True)
    first, second = next(iter(loop.loader))
    assert first.shape == second.shape == (4, 1, 24, 24)
    assert not first.equal(second)
    before = [value.clone() for value in loop.model.parameters()]
    with training_speed.times_of_steps(1, 2, 3, device="cpu") as ends:
        loop.epoch()
    assert len(ends) == 2
    assert not any(map(torch.equal, before, loop.model.parameters()))


def run_script(name, *words):
    script = Path(step_parts.__file__).with_name(name)
    done = subprocess.run(
        [sys.executable, script, "--encoder", "resnet10t", *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.stdout


def test_what_processes_send_each_other_follows_from_shapes():
    found, model = communication.exchanged("resnet10t", 64)
    channels = [m.num_features for m in model.modules() if isinstance(m, _BatchNorm)]
    # Mean, variance and a count; then two sums. Sums and counts of two views, then products.
    numbers = {
        ("gradients", "all_reduce"): sum(value.numel() for value in model.parameters()),
        ("batch norms, forward", "all_gather"): sum(2 * c + 1 for c in channels),
        ("batch norms, backward", "all_reduce"): sum(2 * c for c in channels),
        ("covariances, forward", "all_reduce"): sum(2 * (d + 1 + d**2) for d in (128, 512)),
        ("covariances, backward", "all_reduce"): sum(2 * (d + 1 + d**2) for d in (128, 512)),
        ("means, forward", "all_reduce"): 2 * 7,
        ("means, backward", "all_reduce"): 2 * 7,
        ("whether to stop or save", "all_reduce"): 2,
    }
    assert {what: found.bytes[what] for what in numbers} == {w: 4 * n for w, n in numbers.items()}
    calls = [found.calls[what] for what in numbers]
    assert calls[1:] == [len(channels), len(channels), 4, 4, 1, 1, 1]
    assert found.calls.keys() - numbers.keys() == {("running means of batch norms", "broadcast")}


def test_a_ring_sends_gradients_twice_whatever_the_number_of_processes(capsys):
    communication.main(["--encoder", "resnet10t", "--size", "64", "--processes", "2", "1000"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "gradients" in line)
    shared, by_two, by_many = map(float, line.split()[-3:])
    assert by_two == shared
    assert by_many == pytest.approx(2 * shared, rel=2e-3)


@pytest.mark.slow
def test_processes_are_timed_against_one():
    words = ["--size", "32", "--steps", "1", "--epochs", "3", "--repeats", "1", "--batch-size", "4"]
    ratio = run_script("process_scaling.py", *words).splitlines()[-1]
    assert float(ratio.split()[1]) > 0
