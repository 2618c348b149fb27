"""The history of a run in files that can be read while it trains."""

import csv
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

from otcxr_sk._files import create_file, create_folder, replacing
from otcxr_sk._paths import as_path, reason
from otcxr_sk._quote import cell
from otcxr_sk._warning import warn_user
from otcxr_sk.training.callbacks._base import Callback, TrainingState

_EVENTS = "events.out.tfevents."
_STAMP = re.compile(rf"{re.escape(_EVENTS)}(\d{{1,12}}(?:\.\d{{1,9}})?)\.", re.ASCII)


@dataclass(frozen=True)
class CSVLogger(Callback):
    """Write the history to a CSV file, with a row for every epoch.

    The whole file is replaced after every epoch: it can be read at any time, and a resumed run
    has no epoch twice. Fields of missing numbers are empty. Only this user may read the file.

    Where it cannot be written when training starts, that is an error. Later, as on a full disk, it
    is a `UserWarning`, and training goes on.

    Parameters
    ----------
    path : path
        Path of the file; its folder is created if missing. An existing file is replaced.

    See Also
    --------
    TensorBoardLogger : Write the history for TensorBoard.

    Examples
    --------
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.training import CSVLogger
    >>> encoder = OTCXRPretrainer(callbacks=[CSVLogger("runs/first.csv")])
    """

    path: Any

    def on_fit_begin(self, state: TrainingState) -> None:
        """Write the epochs so far, so that a path that cannot be written fails at once."""
        self._write(state)

    def on_epoch_end(self, state: TrainingState) -> None:
        """Write all epochs."""
        with _training_goes_on(self.path):
            self._write(state)

    def on_fit_end(self, state: TrainingState) -> None:
        """Write again, with what later callbacks recorded for the last epoch."""
        with _training_goes_on(self.path):
            self._write(state)

    def _write(self, state: TrainingState) -> None:
        if not state.is_main_process:
            return
        file = Path(as_path(self.path))
        create_folder(file.parent)
        text = StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["epoch", *map(cell, state.history)])
        for row, numbers in enumerate(zip(*state.history.values(), strict=True), 1):
            writer.writerow([row, *("" if math.isnan(n) else n for n in numbers)])
        with replacing(file) as stream:
            stream.write(text.getvalue().encode())


@dataclass
class TensorBoardLogger(Callback):
    """Write the history for TensorBoard, by epoch; needs the extra ``tensorboard``.

    View it with ``tensorboard --logdir FOLDER``. A resumed run replaces what was written after
    its last checkpoint. Only this user may read the files, and they name no machine.

    Where they cannot be written when training starts, that is an error. Later, as on a full disk,
    it is a `UserWarning`, and training goes on without them.

    Parameters
    ----------
    folder : path
        Folder for this run alone; created if missing.

    See Also
    --------
    CSVLogger : Write the history to a CSV file.

    Examples
    --------
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.training import TensorBoardLogger
    >>> encoder = OTCXRPretrainer(callbacks=[TensorBoardLogger("runs/first")])
    """

    folder: Any
    _writer: Any = field(default=None, init=False, repr=False, compare=False)
    _file: Any = field(default=None, init=False, repr=False, compare=False)

    def on_fit_begin(self, state: TrainingState) -> None:
        """Open the files.

        Raises
        ------
        ImportError
            If TensorBoard is not installed.
        """
        try:
            # Torch's own writer starts TensorFlow, if that is installed.
            from tensorboard.compat.proto.event_pb2 import SessionLog
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoardLogger needs TensorBoard: pip install 'otcxr-sk[tensorboard]'"
            ) from error
        if state.is_main_process:
            folder = as_path(self.folder)
            create_folder(folder)
            name = f"{_EVENTS}{_stamp_after_all(folder):.6f}.{token_hex(16)}"
            self._file = create_file(Path(folder) / name)
            self._writer = RecordWriter(self._file)
            self._write(self._writer, file_version="brain.Event:2")
            # What an interrupted run wrote of later epochs no longer counts.
            start = SessionLog(status=SessionLog.START)
            self._write(self._writer, step=state.epoch + 1, session_log=start)
            self._writer.flush()

    def on_epoch_end(self, state: TrainingState) -> None:
        """Write the epoch."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        writer, self._writer = self._writer, None
        with _training_goes_on(self.folder, self._file):
            for name, values in state.history.items():
                if not math.isnan(values[-1]):
                    value = Summary.Value(tag=name, simple_value=values[-1])
                    self._write(writer, step=state.epoch, summary=Summary(value=[value]))
            writer.flush()
            self._writer = writer

    def on_fit_end(self, state: TrainingState) -> None:
        """Close the files."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with _training_goes_on(self.folder, self._file):
                writer.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        # An estimator that another callback saves or clones during the run holds this one.
        return {**vars(self), "_writer": None, "_file": None}

    @staticmethod
    def _write(writer: Any, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        writer.write(Event(wall_time=time.time(), **content).SerializeToString())


def _stamp_after_all(folder: str) -> float:
    """Return the time, or a later one than that of any file of TensorBoard in a folder.

    TensorBoard reads the files in the order of their names, and clocks are set back.
    """
    stamps = [
        float(found[1]) for found in map(_STAMP.match, os.listdir(folder)) if found is not None
    ]
    return max([time.time(), *(stamp + 1 for stamp in stamps)])


@contextmanager
def _training_goes_on(path: Any, file: BinaryIO | None = None) -> Iterator[None]:
    """Turn what keeps a log from being written into a warning, and close the file then."""
    try:
        yield
    except OSError as error:
        if file is not None:
            with suppress(OSError):
                file.close()
        why = reason(error)
        warn_user(f"the log {as_path(path)!r} was not written: {why}; training goes on")
