import json
import os
import re
import subprocess
import sys
import threading
from hashlib import sha256

import pytest
import safetensors.torch
import torch

from otcxr_sk.training import _inspection
from otcxr_sk.training._checkpoint import CheckpointFolder, RunState
from otcxr_sk.training._inspection import describe, facts

RUN = {
    "otcxr_sk": "1.2.3",
    "seed": 42,
    "parameters": {"epochs": 10, "encoder": "resnet18", "weights": None, "alpha": 1.0},
    "images": {"number": 1000},
    "scan": {"unusable": [[3, "x.png", "broken"], [9, "y.png", "broken"]]},
    "n_training": 800,
}


def numbers(epoch=4, step=0, **others):
    history = {"loss": [5.0, 4.0, 3.0, 2.5], "knn_probe": [float("nan"), 0.6, 0.7, 0.75]}
    return {
        "epoch": epoch,
        "step": step,
        "steps": 20,
        "stopped": False,
        "seconds": 400.0,
        "history": {name: values[:epoch] for name, values in history.items()} if epoch else {},
        **others,
    }


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def save(folder, place=1, run=RUN, **changes):
    folder.mkdir(exist_ok=True)
    checkpoints = CheckpointFolder(folder)
    checkpoints.run = run
    checkpoints.save(RunState({"w": torch.ones(3)}, numbers(**changes)), place)
    return max(folder.glob("*.safetensors"))


def described(folder):
    """Return the lines of the description by their first word, wrapped ones rejoined."""
    lines = re.sub(r"\n {5,}", " ", describe(folder)).splitlines()
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:] if line}


def test_it_shows_what_a_run_is_and_how_far_it_has_come(folder):
    newest = save(folder)
    found = described(folder)
    seed = "seed 42 (drawn from random_state)"
    assert found["run"] == (
        f"otcxr-sk 1.2.3, {seed}, 1000 images, 2 of them left out, 198 held out"
    )
    assert found["parameters"] == "epochs=10, encoder='resnet18', alpha=1.0"
    assert found["progress"] == "4 of 10 epochs completed"
    assert found["time"] == "7 min, 8 images/s, 10 min to go"
    assert found["saved"].endswith(f"{newest.name}, whole")
    assert found["epoch"] == "1 4"
    assert found["loss"] == "5 2.5"
    assert found["knn_probe"] == "0.75"
    assert "damaged" not in found


@pytest.mark.parametrize(
    ("changes", "progress", "time"),
    [
        (
            {"epoch": 1, "step": 10, "seconds": 50.0},
            "1 of 10 epochs completed, step 10 of 20",
            "50 s, 24 images/s, 5 min to go",
        ),
        (
            {"epoch": 0, "step": 5, "seconds": 3600.0},
            "0 of 10 epochs completed, step 5 of 20",
            "1 h 00 min, 0.0556 images/s, 39 h 00 min to go",
        ),
        ({"epoch": 10}, "10 of 10 epochs completed, ended", "7 min, 20 images/s"),
        (
            {"stopped": True},
            "4 of 10 epochs completed, stopped by a callback",
            "7 min, 8 images/s",
        ),
    ],
)
def test_how_far_it_has_come(changes, progress, time, folder):
    history = {"loss": [1.0] * changes.get("epoch", 4)}
    save(folder, **{"history": history, **changes})
    found = described(folder)
    assert found["progress"] == progress
    assert found["time"] == time


def test_a_damaged_newest_is_named_and_kept_and_the_one_before_it_described(folder):
    whole = save(folder, 1, epoch=2)
    newest = save(folder, 2, epoch=3)
    newest.write_bytes(newest.read_bytes()[:-1])
    found = described(folder)
    assert found["progress"].startswith("2 of 10")
    assert found["saved"].endswith(f"{whole.name}, whole")
    assert found["damaged"].startswith(newest.name)
    assert newest.exists()


def test_programs_are_told_the_same(folder):
    newest = save(folder)
    found = facts(folder)
    assert (found["checkpoint"], found["damaged"]) == (newest.name, [])
    assert (found["images"], found["unusable"], found["held_out"]) == (1000, 2, 198)
    assert (found["epoch"], found["epochs"], found["history"]["loss"][-1]) == (4, 10, 2.5)
    json.dumps(found)


def test_nothing_is_written_or_removed(folder):
    save(folder)
    (folder / "unfinished.part").write_bytes(b"half")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    describe(folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_run_can_be_described_while_it_trains(folder):
    save(folder, 0)
    done = threading.Event()

    def train():
        try:
            for place in range(1, 60):
                save(folder, place)
        finally:
            done.set()

    writer = threading.Thread(target=train)
    writer.start()
    looks = 0
    try:
        while not done.is_set():
            assert described(folder)["progress"] == "4 of 10 epochs completed"
            looks += 1
    finally:
        writer.join()
    assert looks > 2


def test_a_checkpoint_that_vanishes_while_it_is_read_is_looked_for_again(folder, monkeypatch):
    save(folder)
    names = [["checkpoint-gone"], ["checkpoint-gone"]]
    usual = _inspection.checkpoint_names
    monkeypatch.setattr(
        _inspection, "checkpoint_names", lambda f: names.pop() if names else usual(f)
    )
    assert described(folder)["progress"] == "4 of 10 epochs completed"


def damage(folder):
    save(folder).write_bytes(b"")


def future(folder):
    save(folder, run={"otcxr_sk": "9"})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "does not exist; name a run's folder or a saved encoder"),
        (lambda folder: folder.mkdir(), "holds no run: no checkpoint has been written there yet"),
        (damage, "holds only damaged checkpoints: 'checkpoint-.*start over"),
        (future, "holds a run of another version of otcxr-sk, without the entry 'seed'"),
        (lambda folder: folder.write_bytes(b"some"), "is not a safetensors file"),
        (lambda folder: folder.write_bytes(b""), "is not a safetensors file"),
        (lambda folder: folder.write_bytes(b"\xff" * 99), "is not a safetensors file"),
        (lambda folder: folder.write_bytes(b"\2" + bytes(7) + b"[]"), "is not a safetensors file"),
        (
            lambda folder: safetensors.torch.save_file({"w": torch.ones(2)}, folder),
            "was not written by save_encoder",
        ),
    ],
)
def test_the_error_says_what_there_is_instead_of_a_run(make, words, folder):
    make(folder)
    with pytest.raises(ValueError, match=words):
        describe(folder)


def test_an_encoder_is_described_from_its_header(tmp_path):
    path = tmp_path / "encoder.safetensors"
    facts = {"encoder": "resnet18\x1b[2J", "image_size": "64", "otcxr_sk_version": "1.2.3"}
    safetensors.torch.save_file({"a": torch.ones(2, 3), "b": torch.ones(1994)}, path, facts)
    found = described(path)
    assert found["weights"] == "2,000 numbers in 2 tensors"
    assert found["image_size"] == "64"
    assert found["otcxr-sk"] == "1.2.3"
    # Escape sequences in a file do not reach the terminal.
    assert found["encoder"] == r"resnet18\x1b[2J"


def test_the_command_line_describes_a_run_without_torch(folder):
    save(folder)
    script = f"import sys; from otcxr_sk.cli import main; main(['info', {str(folder)!r}])"
    script += "; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "4 of 10 epochs completed" in done.stdout
    assert not {"torch", "sklearn", "timm"} & {name.split(".")[0] for name in done.stderr.split()}


ESCAPES = "\x1b]0;pwned\x07\x1b[2J\n" + 10_000 * "x"


@pytest.mark.parametrize(
    ("entry", "changes"),
    [
        ("parameters", {"run": {**RUN, "parameters": {"epochs": 10, ESCAPES: 1, "a": ESCAPES}}}),
        ("run", {"run": {**RUN, "otcxr_sk": ESCAPES}}),
        ("loss", {"history": {"loss": [1.0] * 4, ESCAPES: [float("inf")] * 4}}),
        ("parameters", {"run": {**RUN, "parameters": {"epochs": 10, "a": {"b": [1, ESCAPES]}}}}),
    ],
)
def test_what_a_run_says_is_shown_escaped_and_cut(entry, changes, folder):
    save(folder, **changes)
    assert entry in described(folder)
    shown = describe(folder)
    assert shown.replace("\n", "").isprintable()
    assert len(shown) < 2000


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("epoch", 10**400),
        ("epoch", 5),
        ("step", None),
        ("steps", "20"),
        ("seconds", float("inf")),
        ("seconds", float("nan")),
        ("seconds", -1),
        ("stopped", 1),
        ("history", []),
        ("history", {"loss": [1.0, 2.0, 3.0]}),
        ("history", {"loss": [1.0, "2", 3.0, 4.0]}),
        ("history", {"loss": [10**400] * 4}),
        ("run.seed", ESCAPES),
        ("run.otcxr_sk", 1),
        ("run.parameters", None),
        ("run.parameters.epochs", True),
        ("run.scan.unusable", 3),
        ("run.n_training", [[[]]]),
    ],
)
def test_an_entry_that_no_run_has_is_named(place, value, folder):
    content = {**numbers(), "run": json.loads(json.dumps(RUN))}
    *outer, last = place.split(".")
    inner = content
    for name in outer:
        inner = inner[name]
    inner[last] = value
    run = content.pop("run")
    save(folder, run=run, **content)
    named = "history" if place == "epoch" and value == 5 else place
    with pytest.raises(ValueError, match=rf"'.*checkpoint-.* has the entry '{named}' as") as caught:
        describe(folder)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_what_is_named_like_a_checkpoint_and_is_none_is_passed_over(folder, tmp_path):
    save(folder, 1)
    name = "checkpoint-{}-" + "0" * 64 + ".safetensors"
    (folder / name.format("000000009")).symlink_to(tmp_path / "elsewhere")
    (folder / name.format("000000008")).symlink_to("/dev/zero")
    (folder / name.format("000000007")).mkdir()
    os.mkfifo(folder / name.format("000000006"))
    assert described(folder)["progress"] == "4 of 10 epochs completed"
    alone = tmp_path / "pipe"
    os.mkfifo(alone)
    with pytest.raises(ValueError, match="cannot be read: it is not a regular file"):
        describe(alone)


def test_a_path_that_the_user_names_may_be_a_link(folder, tmp_path):
    save(folder)
    (tmp_path / "link").symlink_to(folder)
    assert described(tmp_path / "link")["progress"] == "4 of 10 epochs completed"


def test_a_header_with_more_than_any_run_has_is_an_error(folder):
    for numbers_ in ('{"a": ' + "[" * 50 + "]" * 50 + "}", "[]"):
        folder.mkdir(exist_ok=True)
        header = {"format": "2", "numbers": numbers_}
        content = safetensors.torch.save({"w": torch.ones(3)}, header)
        name = f"checkpoint-000000001-{sha256(content).hexdigest()}.safetensors"
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"was not written by otcxr-sk.*remove it"):
            describe(folder)
        (folder / name).unlink()


def test_a_date_that_no_calendar_has_is_shown_as_one(folder):
    path = save(folder)
    for when in (-(2**40), 2**50):
        os.utime(path, (when, when))
        assert path.name in described(folder)["saved"]
