"""What a page is made of, and how it becomes HTML."""

from base64 import b64encode
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import BytesIO
from typing import Any, ClassVar

from otcxr_sk._version import __version__

MINUS = "\N{MINUS SIGN}"

# Pixels of a figure per inch, and those of a screen at its usual size.
_DPI, _SCREEN = 144, 96


def share(part: float, whole: float = 1.0) -> str:
    """Return a share in percent, or a dash of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "\N{EN DASH}"


def signed(value: float) -> str:
    """Return a number with its sign."""
    return f"{value:+.3f}".replace("-", MINUS)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Numbers:
    """A few numbers, each as (value, what it is, how to read it)."""

    kind: ClassVar[str] = "numbers"
    items: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of text; the first cell of each is its name."""

    kind: ClassVar[str] = "table"
    caption: str
    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Picture:
    """A figure as a PNG image that the page contains. Its size is in pixels of a screen."""

    kind: ClassVar[str] = "picture"
    uri: str
    alt: str
    caption: str
    width: int
    height: int
    photo: bool

    @classmethod
    def of(cls, figure: Any, alt: str, caption: str, *, photo: bool = False) -> "Picture":
        """Draw a figure of matplotlib; a `photo` keeps its grays on a dark page."""
        file = BytesIO()
        # Nothing but pixels: the entry Software would tell the version of matplotlib.
        metadata = {"Software": None}
        figure.savefig(
            file,
            format="png",
            dpi=_DPI,
            facecolor="white",
            bbox_inches="tight",
            pad_inches=0.12,
            metadata=metadata,
        )
        png = file.getvalue()
        # In the header of a PNG file.
        width, height = (
            round(int.from_bytes(png[start : start + 4], "big") * _SCREEN / _DPI)
            for start in (16, 20)
        )
        uri = "data:image/png;base64," + b64encode(png).decode("ascii")
        return cls(uri, alt, caption, width, height, photo)


Part = Text | Numbers | Table | Picture


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading that the table of contents links to."""

    anchor: str
    title: str
    parts: list[Part] = field(default_factory=list)


def require_jinja() -> None:
    """Raise ImportError, with the command to run, if jinja2 is not installed."""
    if find_spec("jinja2") is None:
        raise ImportError('reports need jinja2: pip install "otcxr-sk[plots]"')


def render(title: str, summary: Numbers, sections: list[Section]) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("otcxr_sk.plotting.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html")
    return template.render(title=title, summary=summary, sections=sections, version=__version__)
