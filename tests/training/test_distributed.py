"""Several processes train like one."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from otcxr_sk.images import ArraySource, Spreads, spread
from otcxr_sk.training import Processes, _distributed, join_processes
from otcxr_sk.training._distributed import SINGLE_PROCESS

SCRIPT = str(Path(__file__).with_name("launched.py"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

EQUAL = {"rtol": 1e-5, "atol": 1e-5}
# bfloat16 rounds differently for every order of a sum.
ROUGH = {"rtol": 0.05, "atol": 0.05}

# Starting ten processes takes a minute: once is enough, with `--dist loadgroup`.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("distributed")]


def run(command, *tasks):
    done = subprocess.run(
        [*command, SCRIPT, *map(str, tasks)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def start_both(*tasks):
    """Start two processes as torchrun would on two machines: neither ends the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    shared |= {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    return [
        subprocess.Popen(
            [sys.executable, SCRIPT, *map(str, tasks)],
            stderr=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, **shared, "RANK": rank, "GROUP_RANK": rank},
        )
        for rank in ("0", "1")
    ]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of two processes and of one, for the same cases and for runs that others began."""
    folder = tmp_path_factory.mktemp("results")
    said = run(TORCHRUN, folder, "compare", "fit", "stop")
    both = {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}
    words = {path.stem: path.read_text() for path in folder.glob("*.txt")}
    killed = start_both(folder, "killed")
    errors = [process.communicate(timeout=200)[1] for process in killed]
    run([sys.executable], folder, "fit", "go-on")
    one = {path.stem[:-2]: dict(np.load(path)) for path in folder.glob("*-0.npz")}
    codes = [process.returncode for process in killed]
    return {"said": said, "words": words, "both": both, "one": one, "killed": (codes, errors)}


def assert_same(found, expected, equal=EQUAL):
    assert found.keys() == expected.keys()
    for name in found.keys() - {"warned"}:
        # What is rounded is as large as the largest values, which the others are sums of.
        scale = max(1, np.abs(expected[name]).max(initial=0))
        rounding = {**equal, "atol": scale * equal["atol"]}
        np.testing.assert_allclose(found[name], expected[name], **rounding, err_msg=name)


def test_the_gradient_and_all_statistics_are_those_of_the_whole_batch(results):
    for rank in (0, 1):
        errors = results["both"][f"errors-{rank}"]
        assert errors.keys() == {"inverse", "direct", "idle"}
        assert max(errors.values()) < 1e-9


ALIKE = [
    *("plain", "accumulated", "norms that act", "idle heads", "cv_sim", "unusable"),
    *("bfloat16", "held out"),
]


@pytest.mark.parametrize("case", ALIKE)
def test_two_processes_give_the_losses_and_weights_of_one(case, results):
    equal = ROUGH if case == "bfloat16" else EQUAL
    assert_same(results["both"][f"{case}-0"], results["one"][case], equal)


@pytest.mark.parametrize("case", [*ALIKE, "without a seed", "interrupt", "failure", "short"])
def test_every_process_ends_with_the_same_estimator(case, results):
    first, second = (results["both"][f"{case}-{rank}"] for rank in (0, 1))
    for name in first.keys() - {"warned"}:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_a_share_of_the_images_is_looked_at_under_its_own_rows():
    images = np.random.default_rng(0).random((9, 8, 8), dtype=np.float32)
    seen = Spreads(9)
    rows = np.array([3, 4, 5, 7])
    _distributed._scan_rows(
        ArraySource(images), rows, np.array([4]), 8, seen.note, {"batch_size": 2}
    )
    expected = spread(torch.from_numpy(images)[:, None]).numpy()
    np.testing.assert_allclose(seen.values[:, rows], expected[:, rows], rtol=1e-12)
    assert not np.delete(seen.values, rows, axis=1).any()


def test_only_the_first_process_warns(results):
    (told,) = results["both"]["unusable-0"]["warned"]
    assert "2 of 23 images cannot be used" in told
    assert "row 19" in told
    assert not len(results["both"]["unusable-1"]["warned"])
    assert "Warning" not in results["said"]


def test_ctrl_c_in_one_process_stops_all_at_the_same_step(results):
    first, second = (results["words"][f"interrupt-{rank}"] for rank in (0, 1))
    assert "interrupted after step 5, with 1 epoch completed; to go on" in first
    assert "interrupted after step 5, with 1 epoch completed" in second


def test_a_loss_that_is_not_finite_in_one_process_ends_all_with_the_last_good_epoch(results):
    for rank in (0, 1):
        assert "The weights of epoch 1 are kept" in results["words"][f"failure-{rank}"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("other images", "process 1 .* the number of images is 22 there and 23 here"),
        ("other options", "process 1 .* objective__eta is 2.0 there and 1.0 here"),
        ("all unusable", "at least 2 images are needed, found 0"),
    ],
)
def test_an_error_in_one_process_is_raised_in_all(case, words, results):
    for rank in (0, 1):
        assert re.search(words, results["words"][f"{case}-{rank}"])


def test_a_killed_process_ends_the_others_with_an_error(results):
    codes, errors = results["killed"]
    assert codes[1] == -signal.SIGKILL
    assert codes[0] == 1
    assert "RuntimeError" in errors[0]


@pytest.mark.parametrize("name", ["interrupted", "failed", "short", "killed"])
def test_a_run_of_two_processes_continues_in_one(name, results):
    assert_same(results["one"][name], results["one"]["whole"])


def test_a_run_of_one_process_continues_in_two(tmp_path):
    run([sys.executable], tmp_path, "begin")
    run(TORCHRUN, tmp_path, "go-on")
    for rank in (0, 1):
        begun, whole = (
            dict(np.load(tmp_path / f"{name}-{rank}.npz")) for name in ("begun", "whole")
        )
        assert_same(begun, whole)


def test_a_process_that_hangs_ends_the_others_within_the_timeout(tmp_path):
    first, second = start_both(tmp_path, "halted")
    try:
        began = time.monotonic()
        error = first.communicate(timeout=200)[1]
        # The timeout is 20 of them; the rest is for the start.
        assert time.monotonic() - began < 120
        assert first.returncode == 1
        assert "RuntimeError" in error
        assert second.poll() is None
    finally:
        second.kill()
        second.communicate()


@pytest.fixture
def launched(monkeypatch):
    """Set the environment as if torchrun had started this process beside another."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")


def test_without_torchrun_there_is_one_process(monkeypatch):
    assert join_processes("cpu") == SINGLE_PROCESS
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert join_processes("cpu") == SINGLE_PROCESS


def test_a_single_process_of_torchrun_trains_alone(launched, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join_processes("cpu") == SINGLE_PROCESS


@pytest.mark.usefixtures("launched")
def test_devices_that_processes_cannot_share_are_refused(monkeypatch):
    monkeypatch.setattr(_distributed, "choose_device", torch.device)
    with pytest.raises(ValueError, match="not on 'mps'"):
        join_processes("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="several processes on one GPU"):
        join_processes("cuda:0")
    with pytest.raises(ValueError, match=r"GPUs, which is 1; .* --nproc-per-node=1"):
        join_processes("auto")


@pytest.mark.usefixtures("launched")
def test_every_process_first_takes_the_gpu_of_its_local_rank(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda place: calls.append(("set", place)))
    monkeypatch.setattr(_distributed, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(_distributed.atexit, "register", lambda function: None)
    for name, answer in {"get_rank": 1, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, lambda answer=answer: answer)
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda backends, timeout: calls.append((backends, timeout)),
    )
    assert join_processes("cuda") == Processes(torch.device("cuda", 1), 1, 2)
    assert calls == [("set", 1), ("cpu:gloo,cuda:nccl", _distributed.TIMEOUT)]


@pytest.mark.usefixtures("launched")
def test_a_process_group_of_the_script_needs_a_backend_for_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: "cuda:nccl")
    with pytest.raises(ValueError, match="has no backend for the CPU"):
        join_processes("cpu")


def test_the_timeout_is_bounded():
    assert timedelta(minutes=1) < _distributed.TIMEOUT < timedelta(hours=1)
