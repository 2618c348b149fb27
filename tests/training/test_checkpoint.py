import errno
import hashlib
import json
import os
import time
from contextlib import contextmanager
from datetime import timedelta

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_runs import Images, Weightless, make_model, same, saved_in
from small_runs import make_trainer as make_run

from otcxr_sk.training import InMemoryCheckpoint, Optimizer, WarmupConstant
from otcxr_sk.training._checkpoint import (
    KEEP,
    CheckpointFolder,
    CheckpointWarning,
    RunState,
)

laws = settings(
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def some(number=0):
    tensors = {
        "float": torch.randn(3, 4, generator=torch.Generator().manual_seed(number)),
        "half/and half": torch.arange(5).to(torch.bfloat16),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "scalar": torch.tensor(number, dtype=torch.int64),
        "nothing": torch.empty(0, 2),
    }
    return RunState(tensors, {"number": number, "third": 1 / 3, "words": ["ä", None, True]})


def assert_same(loaded, saved):
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, value in saved.tensors.items():
        assert loaded.tensors[name].dtype == value.dtype, name
        assert loaded.tensors[name].equal(value), name
    assert loaded.numbers == {**saved.numbers, "run": {}}


def filled(folder, n=KEEP):
    return saved_in(folder, map(some, range(n)))


def newest(folder):
    return max(folder.glob("*.safetensors"))


def test_a_checkpoint_is_loaded_as_it_was_saved_to_the_bit(tmp_path):
    filled(tmp_path)
    assert_same(CheckpointFolder(tmp_path).load(), some(KEEP - 1))


def test_every_checkpoint_identifies_its_run(tmp_path):
    checkpoints = CheckpointFolder(tmp_path)
    checkpoints.run["seed"] = 7
    checkpoints.save(some(), 1)
    assert checkpoints.load().numbers["run"] == {"seed": 7}


def test_an_empty_folder_holds_no_run(tmp_path):
    checkpoints = CheckpointFolder(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
    with checkpoints.alone():
        assert checkpoints.load() is None


@pytest.mark.parametrize("places", [[1, 2, 3, 4, 5], [9, 10, 99, 100, 1_000_000]])
def test_the_last_ones_are_kept_and_the_newest_is_loaded(places, tmp_path):
    checkpoints = CheckpointFolder(tmp_path)
    for place in places:
        checkpoints.save(some(place), place)
    assert len(os.listdir(tmp_path)) == KEEP
    assert checkpoints.load().numbers["number"] == places[-1]
    os.unlink(newest(tmp_path))
    assert checkpoints.load().numbers["number"] == places[-2]


def test_a_checkpoint_is_a_safetensors_file_with_json(tmp_path):
    filled(tmp_path)
    with safetensors.safe_open(newest(tmp_path), "pt") as file:
        assert set(file.keys()) == set(some().tensors)
        assert json.loads(file.metadata()["numbers"])["words"] == ["ä", None, True]


@laws
@given(data=st.data())
def test_a_damaged_newest_falls_back_to_the_one_before(data, tmp_path):
    checkpoints = filled(tmp_path)
    path = newest(tmp_path)
    whole = path.read_bytes()
    way = data.draw(st.sampled_from(["cut", "longer", "changed"]))
    if way == "cut":
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif way == "longer":
        damaged = whole + data.draw(st.binary(min_size=1, max_size=9))
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        damaged = bytearray(whole)
        damaged[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    with pytest.warns(CheckpointWarning, match=f"{path.name} is damaged and was removed"):
        loaded = checkpoints.load()
    assert_same(loaded, some(KEEP - 2))


def test_a_run_with_only_damaged_checkpoints_starts_over(tmp_path):
    checkpoints = filled(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.warns(CheckpointWarning) as warned:
        assert checkpoints.load() is None
    assert len(warned) == KEEP
    checkpoints.save(some(9), 0)
    assert_same(checkpoints.load(), some(9))


def test_other_files_are_neither_read_nor_removed(tmp_path):
    others = {"notes.txt", "model.safetensors", "checkpoint-1.safetensors"}
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    assert_same(filled(tmp_path, 5).load(), some(4))
    assert {path.name for path in tmp_path.iterdir() if path.read_bytes() == b"mine"} == others


def test_an_unfinished_file_of_a_killed_process_is_removed(tmp_path):
    (tmp_path / f".otcxr-{'0' * 32}.part").write_bytes(b"half of a checkp")
    checkpoints = CheckpointFolder(tmp_path)
    with checkpoints.alone():
        assert checkpoints.load() is None
        assert os.listdir(tmp_path) == [".in-use"]


@contextmanager
def no_room(monkeypatch):
    """Limit the files of this process to less than the size of a checkpoint."""
    resource = pytest.importorskip("resource", reason="Windows has no limits of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def failing(function):
    @contextmanager
    def fails(monkeypatch):
        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, function, full)
            yield

    return fails


@pytest.mark.parametrize("disk_full", [no_room, failing("fsync"), failing("replace")])
def test_a_full_disk_warns_and_keeps_earlier_checkpoints(disk_full, tmp_path, monkeypatch):
    checkpoints = filled(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        pytest.warns(CheckpointWarning, match=r"no checkpoint was written after step 7: \w.*kept"),
        disk_full(monkeypatch),
    ):
        checkpoints.save(some(7), 7)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    checkpoints.save(some(8), 8)
    assert_same(checkpoints.load(), some(8))


def test_a_folder_that_cannot_be_created_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(ValueError, match=r"the checkpoint folder '.*file' cannot be used"),
        CheckpointFolder(tmp_path / "file").alone(),
    ):
        pass


@pytest.mark.parametrize("other", ["1", "3"], ids=["of 0.1.0", "of the future"])
def test_another_format_is_refused_and_left_alone(other, tmp_path, monkeypatch):
    with monkeypatch.context() as another_version:
        another_version.setattr("otcxr_sk.training._checkpoint._FORMAT", other)
        filled(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    words = f"{newest(tmp_path).name}' has the format '{other}', and this version of otcxr-sk reads"
    with pytest.raises(ValueError, match=f"{words} only '2'; continue .*or use another folder"):
        CheckpointFolder(tmp_path).load()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_of_an_earlier_version_is_refused_and_left_alone(tmp_path):
    before = tmp_path / f"checkpoint-000000006-{'0' * 32}.safetensors"
    before.write_bytes(b"of 0.1")
    with pytest.raises(ValueError, match=r"holds a run of otcxr-sk 0\.1, .*or use another folder"):
        CheckpointFolder(tmp_path).load()
    assert before.read_bytes() == b"of 0.1"


def test_the_name_ends_with_the_checksum_of_the_content(tmp_path):
    filled(tmp_path)
    path = newest(tmp_path)
    assert path.stem.split("-")[2] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_folder_may_be_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CheckpointFolder("~/runs").folder == str(tmp_path / "runs")


def test_one_is_due_every_so_many_epochs(tmp_path):
    checkpoints = CheckpointFolder(tmp_path, 3)
    due = [(e, s) for e in range(1, 8) for s in range(3) if checkpoints.is_due(e, s)]
    assert due == [(3, 0), (6, 0)]


def test_one_is_due_when_its_time_has_passed_since_the_last(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    checkpoints = CheckpointFolder(tmp_path, timedelta(minutes=2))
    now[0] += 119
    assert not checkpoints.is_due(1, 0)
    now[0] += 1
    assert checkpoints.is_due(1, 0)
    assert checkpoints.is_due(0, 5)
    checkpoints.save(some(), 0)
    assert not checkpoints.is_due(1, 0)


def test_a_folder_is_for_one_run_at_a_time(tmp_path):
    with (
        CheckpointFolder(tmp_path).alone(),
        pytest.raises(ValueError, match="is being used by another run"),
        CheckpointFolder(tmp_path).alone(),
    ):
        pass
    with CheckpointFolder(tmp_path).alone():
        pass


def make_trainer(**options):
    defaults = {"epochs": 1, "schedule": WarmupConstant(), "optimizer": Optimizer(weight_decay=0.0)}
    return make_run(**defaults | options)


def test_nothing_is_kept_at_first():
    assert InMemoryCheckpoint().load() is None


def test_the_steps_of_earlier_parts_count():
    memory, model = InMemoryCheckpoint(), make_model()
    rates = []
    for n in (24, 16, 40):
        history = make_trainer().fit(model, Images(n), memory, memory.load())
        assert {len(values) for values in history.values()} == {1}
        rates += history["learning_rate"]
    assert rates == pytest.approx([1e-3 * (n + 1) / 40 for n in (3, 5, 10)])


@pytest.mark.parametrize("name", ["adamw", "lars"])
def test_the_optimizer_remembers_earlier_parts(name):
    optimizer = Optimizer(name, weight_decay=0.0)
    memory, model = InMemoryCheckpoint(), make_model()
    make_trainer(optimizer=optimizer).fit(model, Images(), memory)
    before = {name: value.clone() for name, value in model.named_parameters()}
    idle = make_trainer(objective=Weightless(), optimizer=optimizer)
    idle.fit(model, Images(), InMemoryCheckpoint())
    assert all(value.equal(before[name]) for name, value in model.named_parameters())
    idle.fit(model, Images(), memory, memory.load())
    moved = [name for name, value in model.named_parameters() if not value.equal(before[name])]
    assert "encoder.backbone.0.weight" in moved


@pytest.mark.parametrize("ema", [None, 0.9])
def test_training_does_not_change_what_is_kept(ema):
    optimizer = Optimizer(weight_decay=0.0, ema=ema)
    memory = InMemoryCheckpoint()
    make_trainer(optimizer=optimizer).fit(make_model(), Images(), memory)
    kept = memory.load()
    ends = []
    for _ in range(2):
        model = make_model()
        make_trainer(optimizer=optimizer).fit(model, Images(), None, memory.load())
        ends.append(model)
    assert same(*ends)
    assert not same(ends[0], make_model())
    assert all(value.equal(kept.tensors[name]) for name, value in memory.load().tensors.items())


def test_nothing_is_kept_of_an_epoch_that_was_interrupted():
    memory = InMemoryCheckpoint()
    names = ["model/weight", "sums/loss", "watched/embedding", "good/weight", "optimizer 0/step"]
    tensors = {name: torch.zeros(1) for name in names}
    memory.save(RunState(tensors, {"precision": {}, "step": 2, "epoch": 0}), 7)
    kept = memory.load()
    assert kept.tensors.keys() == {"model/weight", "optimizer 0/step"}
    assert (kept.numbers["earlier"], kept.numbers["step"]) == (7, 0)
