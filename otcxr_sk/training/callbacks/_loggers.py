"""The history of a run in files that can be read while it trains."""

import csv
import math
import os
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from otcxr_sk._atomic import replacing
from otcxr_sk.training.callbacks._base import Callback, TrainingState


@dataclass(frozen=True)
class CSVLogger(Callback):
    """Write the history to a CSV file, with a row for every epoch.

    The whole file is replaced after every epoch: it can be read at any time, and a resumed run
    has no epoch twice. Fields of missing numbers are empty.

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
        self._write(state)

    def on_fit_end(self, state: TrainingState) -> None:
        """Write again, with what later callbacks recorded for the last epoch."""
        self._write(state)

    def _write(self, state: TrainingState) -> None:
        if not state.is_main_process:
            return
        file = Path(self.path)
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.part")
        # A killed process may have left one.
        aside.unlink(missing_ok=True)
        text = StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["epoch", *state.history])
        for row, numbers in enumerate(zip(*state.history.values(), strict=True), 1):
            writer.writerow([row, *("" if math.isnan(n) else n for n in numbers)])
        with replacing(file, aside) as stream:
            stream.write(text.getvalue().encode())


@dataclass
class TensorBoardLogger(Callback):
    """Write the history for TensorBoard, by epoch; needs the extra ``tensorboard``.

    View it with ``tensorboard --logdir FOLDER``. A resumed run replaces what was written after
    its last checkpoint.

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

    def on_fit_begin(self, state: TrainingState) -> None:
        """Open the files.

        Raises
        ------
        ImportError
            If TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoardLogger needs TensorBoard: pip install 'otcxr-sk[tensorboard]'"
            ) from error
        if state.is_main_process:
            self._writer = SummaryWriter(os.fspath(self.folder), purge_step=state.epoch + 1)

    def on_epoch_end(self, state: TrainingState) -> None:
        """Write the epoch."""
        if self._writer is not None:
            for name, values in state.history.items():
                if not math.isnan(values[-1]):
                    self._writer.add_scalar(name, values[-1], state.epoch)
            self._writer.flush()

    def on_fit_end(self, state: TrainingState) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
