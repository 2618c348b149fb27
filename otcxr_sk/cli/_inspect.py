"""`otcxr-sk inspect`."""

import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from otcxr_sk._files import replacing
from otcxr_sk.cli import _options as options
from otcxr_sk.cli._data import find_files

_WIDTH, _SQUARE = 48, 64
# Of a terminal without shades, from black to white.
_RAMP = " .:-=+*#%@"


@click.command(
    short_help="Show how files would be read, or why they would be refused.",
    epilog=options.examples(
        "otcxr-sk inspect image.dcm",
        "otcxr-sk inspect *.dcm --png sheet.png",
        "find images -type f | otcxr-sk inspect - --json | jq 'select(.refused).file'",
    ),
)
@click.argument(
    "files", nargs=-1, required=True, type=options.PathType(allow_dash=True), metavar="FILE..."
)
@options.path("--png", help="Write the images to one picture, for a closer look.")
@click.option(
    "--thumbnail/--no-thumbnail",
    default=None,
    help="Draw each image.  [default: if stdout is a terminal]",
)
@options.overwrite
@options.as_json
def inspect(
    files: tuple[Path, ...],
    png: Path | None,
    thumbnail: bool | None,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Show how files would be read: every decision, the image, or why it would be refused.

    FILE may be a folder, or - for paths on stdin, one a line. Grays run from 0, black, to 1. With
    --json, each file is one line. The exit status is 1 if a file would be refused.
    """
    if png:
        options.require_output(png, overwrite, ".png")
    draws = sys.stdout.isatty() if thumbnail is None else thumbnail
    refused, small = 0, []
    for path in find_files(files):
        decisions, pixels = _decide(path)
        refused += decisions["refused"] is not None
        if as_json:
            options.show_json(decisions)
        else:
            options.show(_text(decisions))
            if draws and pixels is not None:
                click.echo(_drawn(pixels))
        if png:
            small.append(_shrunk(pixels, 512, 512) if pixels is not None else None)
    if png:
        with replacing(png) as file:
            _sheet(small).save(file, "PNG")
    return int(refused > 0)


def _decide(path: str) -> tuple[dict[str, Any], Any]:
    """Return what reading decides about a file, and its pixels unless they would be refused."""
    from otcxr_sk.images import as_source, read_image, telling

    pixels, refused = None, None
    with telling() as told, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            pixels = read_image(path)
        except ValueError as error:
            refused = str(error).removeprefix(f"cannot read {path!r}: ")
    if pixels is not None:
        low, high, mean = pixels.min(), pixels.max(), pixels.mean()
        told["size"] = f"{pixels.shape[0]} x {pixels.shape[1]} (rows x columns)"
        told["range"] = f"{low:.4g} to {high:.4g}, mean {mean:.4g}"
        try:
            # Beyond being read, an image must be finite, and not constant.
            as_source([pixels]).read([0], _SQUARE, refuse_constant=True)
        except ValueError as error:
            refused = str(error).removeprefix("row 0: ")
    warned = [str(one.message).removeprefix(f"{path!r}: ") for one in found]
    decisions = {"file": path, **told, "refused": refused, "warnings": warned}
    return decisions, pixels if refused is None else None


def _text(decisions: Mapping[str, Any]) -> str:
    told = [(name.replace("_", " "), value) for name, value in decisions.items()]
    told = [(name, value) for name, value in told if name not in ("file", "warnings") and value]
    told += [("warning", warning) for warning in decisions["warnings"]]
    return "\n".join([decisions["file"], *(f"  {name:<16} {value}" for name, value in told)])


def _shrunk(pixels: Any, width: int, height: int, aspect: float = 1.0) -> Any:
    """Return a picture of 8 bits, of at most some size, whose pixels are `aspect` times as high."""
    import numpy as np
    from PIL import Image

    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        # Floats of any range: nobody says what is black.
        pixels = (pixels - low) / ((high - low) or 1)
    picture = Image.fromarray(np.uint8(np.rint(np.clip(pixels, 0, 1) * 255)))
    scale = min(width / picture.width, aspect * height / picture.height)
    size = (round(scale * picture.width), round(scale * picture.height / aspect))
    return picture.resize((max(1, size[0]), max(1, size[1])))


def _drawn(pixels: Any) -> str:
    import numpy as np

    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        # A character is about twice as high as wide.
        grays = np.asarray(_shrunk(pixels, _WIDTH, _WIDTH // 2, 2.0)).tolist()
        return "\n".join("".join(_RAMP[gray * len(_RAMP) // 256] for gray in row) for row in grays)
    # Each character shows two pixels: its upper half in one shade, its lower half in another.
    grays = np.asarray(_shrunk(pixels, _WIDTH, _WIDTH)).tolist()
    grays += [[0] * len(grays[0])] * (len(grays) % 2)
    return "\n".join(
        "".join(
            f"\x1b[38;5;{_shade(upper)};48;5;{_shade(lower)}m\u2580"
            for upper, lower in zip(*rows, strict=True)
        )
        + "\x1b[0m"
        for rows in zip(grays[::2], grays[1::2], strict=True)
    )


def _shade(gray: int) -> int:
    """Return the color of a terminal of 256 that is next to a gray of 8 bits."""
    return 16 if gray < 4 else 231 if gray > 246 else 232 + round((gray - 8) / 10)


def _sheet(pictures: list[Any]) -> Any:
    """Lay pictures out in rows; those of refused files stay gray."""
    from PIL import Image

    columns = max(1, round(len(pictures) ** 0.5 + 0.49))
    cell = 512 if len(pictures) < 10 else 256
    for picture in pictures:
        if picture is not None:
            picture.thumbnail((cell, cell))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("L", (columns * (cell + 8) + 8, rows * (cell + 8) + 8), 64)
    for number, picture in enumerate(pictures):
        if picture is not None:
            left, top = 8 + number % columns * (cell + 8), 8 + number // columns * (cell + 8)
            sheet.paste(
                picture, (left + (cell - picture.width) // 2, top + (cell - picture.height) // 2)
            )
    return sheet
