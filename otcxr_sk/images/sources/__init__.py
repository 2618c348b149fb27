"""What images come in: files, arrays and data sets, however they are wrapped, read by index."""

from otcxr_sk.images.sources._arrays import ArraySource, is_lazy
from otcxr_sk.images.sources._content import Content, recognize
from otcxr_sk.images.sources._items import DatasetSource
from otcxr_sk.images.sources._open import as_source, open_source
from otcxr_sk.images.sources._paths import PathSource
from otcxr_sk.images.sources._source import DEFAULT_RESIZE, ImageSource, Selection, leave_out

__all__ = [
    "DEFAULT_RESIZE",
    "ArraySource",
    "Content",
    "DatasetSource",
    "ImageSource",
    "PathSource",
    "Selection",
    "as_source",
    "is_lazy",
    "leave_out",
    "open_source",
    "recognize",
]
