"""Read files, arrays and datasets as grayscale images with the right polarity and range."""

from otcxr_sk.images._cache import Cache, ImageCache
from otcxr_sk.images._errors import (
    ImageReadError,
    ImageReadWarning,
    Unusable,
    UnusableImageWarning,
    require_size,
    require_usable,
    unusable_table,
    warn_unusable,
    without_names,
)
from otcxr_sk.images._folder import list_images
from otcxr_sk.images._pixels import RESIZES, Resize
from otcxr_sk.images._read import read_image
from otcxr_sk.images._telling import telling
from otcxr_sk.images.batches import (
    FITTED,
    ImageRangeWarning,
    Scan,
    Spreads,
    behind,
    read_batches,
    read_usable_batches,
    scan,
    spread,
)
from otcxr_sk.images.dicom import read_dicom, read_dicom_table, read_dicom_texts
from otcxr_sk.images.sources import (
    DEFAULT_RESIZE,
    ArraySource,
    Content,
    DatasetSource,
    ImageSource,
    PathSource,
    Selection,
    as_source,
    is_lazy,
    leave_out,
    open_source,
    recognize,
)

__all__ = [
    "DEFAULT_RESIZE",
    "FITTED",
    "RESIZES",
    "ArraySource",
    "Cache",
    "Content",
    "DatasetSource",
    "ImageCache",
    "ImageRangeWarning",
    "ImageReadError",
    "ImageReadWarning",
    "ImageSource",
    "PathSource",
    "Resize",
    "Scan",
    "Selection",
    "Spreads",
    "Unusable",
    "UnusableImageWarning",
    "as_source",
    "behind",
    "is_lazy",
    "leave_out",
    "list_images",
    "open_source",
    "read_batches",
    "read_dicom",
    "read_dicom_table",
    "read_dicom_texts",
    "read_image",
    "read_usable_batches",
    "recognize",
    "require_size",
    "require_usable",
    "scan",
    "spread",
    "telling",
    "unusable_table",
    "warn_unusable",
    "without_names",
]
