"""The group of commands, and what becomes of errors, warnings and Ctrl-C."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import click

from otcxr_sk._quote import plain_text
from otcxr_sk._version import __version__
from otcxr_sk.cli._check import check
from otcxr_sk.cli._data import near
from otcxr_sk.cli._demo import demo
from otcxr_sk.cli._embed import embed
from otcxr_sk.cli._evaluate import evaluate
from otcxr_sk.cli._export import export
from otcxr_sk.cli._info import info
from otcxr_sk.cli._inspect import inspect
from otcxr_sk.cli._options import examples
from otcxr_sk.cli._pretrain import pretrain
from otcxr_sk.cli._report import report

PROGRAM = "otcxr-sk"
FAILED, MISUSED, INTERRUPTED = 1, 2, 130


class _ReaderLeftError(Exception):
    """Nobody reads stdout any more."""


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a closed pipe is not left to click, which would end the program."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderLeftError from error

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take arguments apart; without any, show the help."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(MISUSED)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are needed."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command, or say which one may be meant."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            advice = near(args[0], self.commands)
            raise click.UsageError(f"there is no command {args[0]!r}{advice}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Group,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
    },
    epilog=examples(
        f"{PROGRAM} demo",
        f"{PROGRAM} check images/",
        f"{PROGRAM} pretrain images/ --out model",
        f"{PROGRAM} embed model images/ --out embeddings.npy",
    )
    + "\n\nExit status: 0 all is well, 1 problems were found or the command failed, 2 it was "
    "called wrongly, 130 it was interrupted. Results go to stdout, all else to stderr. "
    f"`{PROGRAM} COMMAND --help` tells more.",
)
@click.version_option(__version__, prog_name=PROGRAM)
def commands() -> None:
    """Self-supervised chest X-ray embeddings by optimal transport."""


for command in (demo, inspect, check, pretrain, info, embed, evaluate, report, export):
    commands.add_command(command)


@contextmanager
def _open_streams() -> Iterator[None]:
    """Open what the caller has closed, as `>&-` does: files would take its number."""
    with ExitStack() as opened:
        for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
            if getattr(sys, name) is None:
                setattr(sys, name, opened.enter_context(open(os.devnull, mode, encoding="utf-8")))
                opened.callback(setattr, sys, name, None)
        yield


@_open_streams()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = commands.main(argv, PROGRAM, standalone_mode=False)
        # A closed pipe must be noticed here, not at exit.
        sys.stdout.flush()
    except SystemExit as error:
        # Of completion.
        return int(error.code or 0)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else PROGRAM
        _say(error.format_message().replace("\n", " "), f"Try '{where} --help'.")
        return MISUSED
    except click.Abort as error:
        _say(str(error.__cause__ or "") or "interrupted; nothing is half written")
        return INTERRUPTED
    except (_ReaderLeftError, BrokenPipeError):
        # The reader, such as `head`, has left. Without this, the flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        where = f"{error.filename!r}: " if error.filename else ""
        _say(f"{where}{error.strerror or error}")
        return FAILED
    except (
        ValueError,
        TypeError,
        ArithmeticError,
        RuntimeError,
        ImportError,
        MemoryError,
    ) as error:
        _say(str(error))
        return FAILED
    return int(status or 0)


def _say(*lines: str) -> None:
    text = "\n".join(lines)
    click.echo(plain_text(f"{PROGRAM}: {text}"), err=True)


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    _say(f"warning: {message}")
