"""Arguments and options that commands share, and what commands print."""

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from otcxr_sk._files import require_writable
from otcxr_sk._paths import as_path, reason
from otcxr_sk._quote import brief, plain_text, quoted


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


def path(*names: str, **more: Any) -> Any:
    """Make an option that takes a path."""
    return click.option(*names, type=PathType(), **more)


data = click.argument(
    "data", nargs=-1, required=True, type=PathType(allow_dash=True), metavar="DATA..."
)
model = click.argument("model", type=PathType())

labels = path(
    "--labels",
    metavar="CSV",
    help="Table with the columns path, patient_id and one per label. By default labels.csv in a "
    "folder, or the arrays of an .npz.",
)
names = click.option(
    "--label", "names", multiple=True, metavar="NAME", help="Only this label; may be repeated."
)
seed = click.option("--seed", type=click.IntRange(0), default=0, help="Random seed.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace what is there.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
device = click.option(
    "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps, ..."
)
workers = click.option(
    "--workers", type=click.IntRange(0), help="Processes that read images.  [default: auto]"
)


def on_error(what: str) -> Any:
    """Make the option that says what becomes of images that cannot be used."""
    choice = click.Choice(["raise", "warn"])
    return click.option("--on-error", type=choice, default="raise", help=what)


def shows_progress() -> bool:
    """Whether somebody sees progress bars: a file would only fill up with them."""
    return sys.stderr.isatty()


def note(text: str) -> None:
    """Tell how the work goes."""
    click.echo(plain_text(text), err=True)


def note_size(path: Path) -> None:
    """Tell what was written."""
    note(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def note_left_out(columns: Mapping[str, str]) -> None:
    """Tell which labels are not used, and why."""
    for name, why in columns.items():
        note(f"left out: {brief(name)}: {why}")


def show(text: str) -> None:
    """Print a result for people, whatever the files hold that it tells of."""
    click.echo(plain_text(text))


def show_json(result: Mapping[str, Any]) -> None:
    """Print a result for programs."""
    click.echo(json.dumps(_finite(result), allow_nan=False))


def _finite(value: Any) -> Any:
    """Return what JSON holds: null in the place of NaN and infinity."""
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def aligned(rows: Mapping[str, Any], indent: str = "") -> str:
    """Return names and values as two columns."""
    width = max(map(len, rows))
    return "\n".join(f"{indent}{name:<{width}}  {_shown(value)}" for name, value in rows.items())


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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
