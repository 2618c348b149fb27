"""`otcxr-sk embed`."""

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from otcxr_sk._files import replacing
from otcxr_sk._quote import counted
from otcxr_sk.cli import _options as options
from otcxr_sk.cli._data import STDIN, find_images, load_encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from otcxr_sk import OTCXRPretrainer

_FORMATS = ("npy", "csv", "parquet")
# Embedded before they are written: workers are started anew for each part.
_AT_ONCE = 1024
# As messages begin a line with one.
_ROW = re.compile(r"^(\s*row )(\d+)(?=[,:])", re.MULTILINE)


@click.command(
    short_help="Turn images into embeddings.",
    epilog=options.examples(
        "otcxr-sk embed model images/ --out embeddings.npy",
        "otcxr-sk embed model images/ | head -3",
        "find images -name '*.dcm' | sort | tee files.txt | otcxr-sk embed model - --out e.parquet",
    ),
)
@options.model
@options.data
@click.option(
    "--out",
    type=options.PathType(allow_dash=True),
    default="-",
    help="A .npy, .csv or .parquet file, or - for stdout.",
)
@click.option("--format", "form", type=click.Choice(_FORMATS), help="On stdout.  [default: csv]")
@options.on_error("Stop at an image that cannot be read, or give it a row of NaN and a warning.")
@options.overwrite
@options.device
@options.workers
def embed(
    model: Path,
    data: tuple[Path, ...],
    out: Path,
    form: str | None,
    on_error: str,
    overwrite: bool,
    **machine: Any,
) -> None:
    """Embed images, a row for each, in memory that does not grow with their number.

    MODEL is a folder that `otcxr-sk pretrain` or save_pretrained has written. DATA are folders,
    image files, one .npz, or - for paths on stdin, one a line.

    Rows are in the order of the files given, and those of a folder sorted by path. No file is
    named in the result. It appears once it is complete; on stdout, rows appear as they come.
    """
    if out != STDIN:
        options.require_output(out, overwrite, *(f".{one}" for one in _FORMATS))
        if form:
            raise click.UsageError("--format is for stdout; the suffix of --out decides")
        form = out.suffix.lower()[1:]
    form = form or "csv"
    if form == "parquet":
        _require_pyarrow()
    encoder = load_encoder(model, on_error, **machine)
    X = find_images(data)
    parts = _parts(encoder, X)
    if form == "npy" and out.suffix == ".npy":
        encoder.set_params(verbose=int(options.shows_progress())).transform(X, out=out)
    else:
        # Before the first images are read, nothing is written.
        parts = chain([next(parts)], parts)
        with _opened(out) as file:
            _WRITERS[form](file, len(X), list(encoder.get_feature_names_out()), parts)
    if out != STDIN:
        shape = f"{counted(len(X), 'row')} of {encoder.embedding_dim_} numbers"
        options.note(f"{out}: {shape}")


@contextmanager
def _opened(out: Path) -> Iterator[BinaryIO]:
    if out == STDIN:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with replacing(out) as file:
        yield file


def _parts(encoder: "OTCXRPretrainer", X: Any) -> "Iterator[NDArray[Any]]":
    from tqdm.auto import tqdm

    with tqdm(
        total=len(X), desc="embedding", unit="img", disable=not options.shows_progress()
    ) as bar:
        for start in range(0, len(X), _AT_ONCE):
            with _counting_from(start):
                part = encoder.transform(X[start : start + _AT_ONCE])
            yield part
            bar.update(min(_AT_ONCE, len(X) - start))


@contextmanager
def _counting_from(start: int) -> Iterator[None]:
    """Let errors and warnings about a part name the rows of the whole."""

    def renumbered(text: Any) -> str:
        return _ROW.sub(lambda row: f"{row[1]}{int(row[2]) + start}", str(text))

    try:
        with warnings.catch_warnings(record=True) as found:
            yield
    except ValueError as error:
        error.args = (renumbered(error),)
        raise
    for one in found:
        warnings.warn_explicit(renumbered(one.message), one.category, one.filename, one.lineno)


def _write_npy(file: BinaryIO, n: int, names: Sequence[str], parts: Any) -> None:
    from numpy.lib import format as npy

    header = {"descr": "<f4", "fortran_order": False, "shape": (n, len(names))}
    npy.write_array_header_1_0(file, header)
    for part in parts:
        file.write(part.astype("<f4").tobytes())


def _write_csv(file: BinaryIO, n: int, names: Sequence[str], parts: Any) -> None:
    file.write(",".join(["row", *names]).encode() + b"\n")
    # Nine digits give back every float32.
    line, row = ",".join(["%d"] + ["%.9g"] * len(names)) + "\n", 0
    for part in parts:
        for values in part.tolist():
            file.write((line % (row, *values)).encode())
            row += 1
        file.flush()


def _write_parquet(file: BinaryIO, n: int, names: Sequence[str], parts: Any) -> None:
    import numpy as np
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema([("row", pa.int64()), *((name, pa.float32()) for name in names)])
    row = 0
    with ParquetWriter(file, schema) as writer:
        for part in parts:
            columns = [np.arange(row, row + len(part)), *part.T]
            writer.write_table(pa.table([pa.array(one) for one in columns], schema=schema))
            row += len(part)


_WRITERS = {"npy": _write_npy, "csv": _write_csv, "parquet": _write_parquet}


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Parquet needs pyarrow: pip install 'otcxr-sk[parquet]', or write .npy or .csv"
        ) from error
