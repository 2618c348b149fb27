import csv
import errno
import math
import pickle
import sys
import time
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from socket import gethostname

import pytest

from otcxr_sk.training import Callback, CSVLogger, TensorBoardLogger

ROWS = [{"loss": 1 / 3, "rank": 2.0}, {"loss": 1e-12, "rank": math.nan}, {"loss": -4.0}]


def read(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


class Look(Callback):
    def __init__(self, path):
        self.path, self.seen = path, []

    def on_epoch_end(self, state):
        self.seen.append([row["epoch"] for row in read(self.path)])


def test_a_csv_file_has_a_row_for_every_epoch_while_training_goes_on(scripted, tmp_path):
    path = tmp_path / "logs" / "run.csv"
    look = Look(path)
    scripted(CSVLogger(path), look).go(ROWS)
    assert look.seen == [["1"], ["1", "2"], ["1", "2", "3"]]
    rows = read(path)
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in ROWS]
    assert [row["rank"] for row in rows] == ["2.0", "", ""]
    assert [file.name for file in path.parent.iterdir()] == ["run.csv"]


def test_a_resumed_run_has_no_row_twice(scripted, tmp_path):
    run = scripted(CSVLogger(tmp_path / "run.csv"))
    run.go(ROWS[:2])
    # It stopped after the second epoch, and its last checkpoint is of the first.
    again = scripted(CSVLogger(tmp_path / "run.csv"))
    again.progress.end_epoch(ROWS[0])
    again.go(ROWS[1:])
    assert [row["epoch"] for row in read(tmp_path / "run.csv")] == ["1", "2", "3"]


class Late(Callback):
    def on_epoch_end(self, state):
        state.record("late", state.epoch)


def test_numbers_from_later_callbacks_are_in_the_file_at_the_end(scripted, tmp_path):
    scripted(CSVLogger(tmp_path / "run.csv"), Late()).go(ROWS)
    assert [row["late"] for row in read(tmp_path / "run.csv")] == ["1.0", "2.0", "3.0"]


def test_a_path_that_cannot_be_written_fails_before_training(scripted, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        scripted(CSVLogger(tmp_path / "file" / "run.csv")).go(_never())


@contextmanager
def full_disk(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("otcxr_sk._files.os.replace", full)
        patch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.flush", full)
        yield


class FillTheDisk(Callback):
    def __init__(self, monkeypatch):
        self.monkeypatch, self.held = monkeypatch, ExitStack()

    def on_epoch_end(self, state):
        if state.epoch == 2:
            self.held.enter_context(full_disk(self.monkeypatch))

    def on_fit_end(self, state):
        self.held.close()


@pytest.mark.parametrize("logger", [CSVLogger, TensorBoardLogger])
def test_a_disk_that_is_full_later_is_a_warning_and_training_goes_on(
    logger, scripted, tmp_path, monkeypatch
):
    run = scripted(FillTheDisk(monkeypatch), logger(tmp_path / "log"))
    with pytest.warns(UserWarning, match=r"the log '.*log' was not written: No space .*goes on"):
        run.go(ROWS)
    assert len(run.progress.history["loss"]) == len(ROWS)


def test_a_clock_that_was_set_back_does_not_change_the_order(scripted, tmp_path, monkeypatch):
    scripted(TensorBoardLogger(tmp_path)).go(ROWS[:2], ended=False)
    later = time.time()
    monkeypatch.setattr("time.time", lambda: later - 10_000)
    again = scripted(TensorBoardLogger(tmp_path))
    again.progress.end_epoch(ROWS[0])
    again.go([{"loss": 7.0}, {"loss": 8.0}])
    assert [step for step, _ in scalars(tmp_path)["loss"]] == [1, 2, 3]


def test_the_files_of_tensorboard_are_private_and_name_no_machine(scripted, tmp_path):
    scripted(TensorBoardLogger(tmp_path / "a" / "b")).go(ROWS)
    (file,) = (tmp_path / "a" / "b").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert gethostname() not in file.name


def _never():
    raise AssertionError("an epoch was trained")
    yield


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_gets_every_number_of_every_epoch(scripted, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    scripted(logger).go(ROWS)
    found = scalars(tmp_path)
    assert found["loss"] == [(n, pytest.approx(row["loss"])) for n, row in enumerate(ROWS, 1)]
    assert found["rank"] == [(1, 2.0)]
    assert logger == TensorBoardLogger(tmp_path)


def test_a_resumed_run_replaces_what_was_written_after_its_checkpoint(scripted, tmp_path):
    scripted(TensorBoardLogger(tmp_path)).go(ROWS[:2], ended=False)
    again = scripted(TensorBoardLogger(tmp_path))
    again.progress.end_epoch(ROWS[0])
    again.go([{"loss": 7.0}, {"loss": 8.0}])
    assert [(step, round(value, 3)) for step, value in scalars(tmp_path)["loss"]] == [
        (1, 0.333),
        (2, 7.0),
        (3, 8.0),
    ]


def test_a_logger_can_be_saved_and_copied_during_a_run(scripted, tmp_path):
    class Save(Callback):
        def on_epoch_end(self, state):
            self.copies = pickle.loads(pickle.dumps(logger)), deepcopy(logger)

    logger, save = TensorBoardLogger(tmp_path), Save()
    scripted(logger, save).go(ROWS)
    assert save.copies == (logger, logger)
    assert [step for step, _ in scalars(tmp_path)["loss"]] == [1, 2, 3]


def test_torchs_own_writer_which_starts_tensorflow_is_not_used(scripted, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    scripted(TensorBoardLogger(tmp_path)).go(ROWS[:1])
    assert scalars(tmp_path)["rank"] == [(1, 2.0)]


def test_without_tensorboard_the_extra_is_named(scripted, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(ImportError, match=r"pip install 'otcxr-sk\[tensorboard\]'"):
        scripted(TensorBoardLogger(tmp_path)).go(_never())
