"""The history of a run in files that others can read while it goes on."""

from __future__ import annotations

import csv
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otcxr_sk.training.callbacks import Callback, TrainingState


@dataclass(frozen=True)
class CSVLogger(Callback):
    """Write the history to a CSV file, a row for every epoch.

    The file is replaced as a whole after every epoch: it can be read at any time, and that of a
    resumed run has every epoch once. A number that is not there is an empty field.

    Parameters
    ----------
    path : path
        Of the file; its folder is made if missing. One that is there is replaced.
    """

    path: Any

    def on_fit_begin(self, state: TrainingState) -> None:
        """Write the epochs before, so that a file that cannot be is known of at once."""
        if state.is_main_process:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self._write(state)

    def on_epoch_end(self, state: TrainingState) -> None:
        """Write all epochs."""
        if state.is_main_process:
            self._write(state)

    def on_fit_end(self, state: TrainingState) -> None:
        """Write what callbacks after this one recorded of the last epoch."""
        if state.is_main_process:
            self._write(state)

    def _write(self, state: TrainingState) -> None:
        file = Path(self.path)
        scratch = file.with_name(f".{file.name}.part")
        with open(scratch, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["epoch", *state.history])
            for row, numbers in enumerate(zip(*state.history.values(), strict=True), 1):
                writer.writerow([row, *("" if math.isnan(n) else n for n in numbers)])
        os.replace(scratch, file)


@dataclass
class TensorBoardLogger(Callback):
    """Write the history for TensorBoard, by epoch; needs the extra ``tensorboard``.

    Look at it with ``tensorboard --logdir FOLDER``. A resumed run takes the place of what was
    written after it was last saved.

    Parameters
    ----------
    folder : path
        Of this run alone; made if missing.
    """

    folder: Any
    _writer: Any = field(default=None, init=False, repr=False, compare=False)

    def on_fit_begin(self, state: TrainingState) -> None:
        """Open the files.

        Raises
        ------
        ImportError
            TensorBoard is not installed.
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
