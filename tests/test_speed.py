"""The benchmarks of speed: they run, and they time what they claim to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import step_cost
import step_parts
import torch
from one_step import OneStep
from results import read_csv

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
    step.transport()
    assert all(q.grad.isfinite().all() and q.grad.any() for q in step.tokens)


def test_a_part_takes_less_time_than_the_step():
    ratios, arithmetic = step_cost.training_step("resnet10t", 64, 8, "float32", 3, "views")
    assert arithmetic == "float32"
    assert 0 < ratios.min() < 1


@pytest.mark.slow
@pytest.mark.skipif(not step_parts.COUNTED.exists(), reason="peak memory is read from Linux")
def test_the_parts_of_a_step_its_tokens_and_its_memory_are_reported(tmp_path):
    out = tmp_path / "parts.csv"
    step_parts.main(["--quick", "--out", str(out)])
    shares = {row["part"]: float(row["share"]) for row in read_csv(out)}
    assert len(shares) == 10 + 3 * 2 + 2 * 2 + 1
    assert shares["  of these, transport"] > 0
    assert 0 < shares["two views of every image"] < 1
    assert any(part.startswith("64 tokens, 64 px, transport") for part in shares)
    (memory,) = [share for part, share in shares.items() if part.startswith("step / encoder")]
    assert 0.5 < memory < 5


def test_fit_and_the_plain_loop_are_timed_on_the_same_files(tmp_path):
    pytest.importorskip("lightly", reason='the plain loop needs "otcxr-sk[benchmarks]"')
    import training_speed

    out = tmp_path / "speed.csv"
    training_speed.main(["--quick", "--out", str(out)])
    rows = {row["what"]: row for row in read_csv(out)}
    assert rows.keys() == training_speed.OURS.keys() | training_speed.PLAIN.keys()
    plain = float(rows["lightly, float32"]["images_per_s"])
    for row in rows.values():
        ratio = float(row["images_per_s"]) / plain
        assert float(row["times_lightly_float32"]) == pytest.approx(ratio, rel=1e-3)
    # Only the total includes the first epoch, the scan before it and building the model.
    fit = rows["fit, float32"]
    assert 0 < float(fit["total_images_per_s"]) < float(fit["images_per_s"])


def test_the_plain_loop_sees_gray_views_and_learns(tmp_path):
    pytest.importorskip("lightly", reason='the plain loop needs "otcxr-sk[benchmarks]"')
    import argparse

    import training_speed

    paths = training_speed.write_images(tmp_path, 8, 32)
    options = argparse.Namespace(batch=4, encoder="resnet10t")
    loop = training_speed.PlainLoop(paths, options, 24, 0, mixed=True)
    first, second = next(iter(loop.loader))
    assert first.shape == second.shape == (4, 1, 24, 24)
    assert not first.equal(second)
    before = [value.clone() for value in loop.model.parameters()]
    with training_speed.step_ends() as ends:
        loop.epoch()
    assert len(ends) == 2
    assert ends == sorted(ends)
    assert not any(map(torch.equal, before, loop.model.parameters()))
    loop.epoch()
    assert len(ends) == 2


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


def test_what_processes_send_each_other_is_counted():
    printed = run_script("communication.py", "--size", "64")
    assert "batch norms 15" in printed
    # One call per norm in each direction, and those of the terms.
    assert "all_gather  forward    15 calls" in printed
    backward = next(line for line in printed.splitlines() if "all_reduce  backward" in line)
    assert int(backward.split()[2]) > 15


@pytest.mark.slow
def test_processes_are_timed_against_one():
    words = ["--size", "32", "--steps", "1", "--epochs", "3", "--repeats", "1", "--batch-size", "4"]
    ratio = run_script("process_scaling.py", *words).splitlines()[-1]
    assert float(ratio.split()[1]) > 0
