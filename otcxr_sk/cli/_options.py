"""Arguments and options that commands share."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from otcxr_sk._files import require_writable
from otcxr_sk._paths import as_path, reason
from otcxr_sk._quote import quoted


class PathType(click.Path):
    """A path, with ``~`` as the home folder: shells leave the sign alone in `--out=~/folder`."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        """Return the path that a user gave."""
        if value in ("", b""):
            # It would be the folder that the shell is in.
            self.fail("the path is empty; is a variable of the shell not set?", param, ctx)
        if value in ("-", b"-") and not self.allow_dash:
            self.fail("this is no stream; for a file of the name '-', write ./-", param, ctx)
        try:
            path = Path(as_path(value))
            # Otherwise ./- would be a stream.
            return path.absolute() if str(path) == "-" != os.fsdecode(value) else path
        except ValueError as error:
            self.fail(str(error), param, ctx)


def examples(*commands: str) -> str:
    """Return the examples at the end of the help of a command."""
    return "\n".join(["\b", "Examples:", *(f"  {command}" for command in commands)])


data_argument = click.argument(
    "data", nargs=-1, required=True, type=PathType(allow_dash=True), metavar="DATA..."
)
model_argument = click.argument("model", type=PathType())

labels_option = click.option(
    "--labels",
    type=PathType(),
    metavar="CSV",
    help="Table with the columns path, patient_id and one per label. By default labels.csv in a "
    "folder, or the arrays of an .npz.",
)
seed_option = click.option("--seed", type=click.IntRange(0), default=0, help="Random seed.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is at --out.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
device_option = click.option(
    "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps, ..."
)
workers_option = click.option(
    "--workers", type=click.IntRange(0), help="Processes that read images.  [default: auto]"
)


def shows_progress() -> bool:
    """Whether somebody sees progress bars: a file would only fill up with them."""
    return sys.stderr.isatty()


def note(text: str) -> None:
    """Tell how the work goes."""
    click.echo(text, err=True)


def require_output(path: Path, overwrite: bool, *suffixes: str) -> None:
    """Raise ValueError for a place where a result cannot go, before any work is done.

    Without suffixes, the result is a folder.
    """
    shown = quoted(str(path))
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"the output {shown} must end in {' or '.join(suffixes)}")
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"{shown} exists; choose another output, or pass --overwrite")
    if suffixes and path.is_dir():
        raise ValueError(f"{shown} is a folder; choose another output")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"there is no folder {quoted(str(folder))} for {shown}; create it first")
    try:
        require_writable(folder)
    except OSError as error:
        raise ValueError(
            f"nothing can be written to {quoted(str(folder))} ({reason(error)}); choose another "
            "output"
        ) from error
