"""A file or an array to grayscale images, polarity and range right."""

from otcxr_sk.images._arrays import ArraySource
from otcxr_sk.images._cache import ImageCache
from otcxr_sk.images._datasets import DatasetSource
from otcxr_sk.images._dicom import read_dicom
from otcxr_sk.images._dicom_table import read_dicom_table
from otcxr_sk.images._errors import ImageReadError, ImageReadWarning
from otcxr_sk.images._files import read_image
from otcxr_sk.images._folder import list_images
from otcxr_sk.images._paths import PathSource
from otcxr_sk.images._scan import Scan, scan
from otcxr_sk.images._source import ImageSource

__all__ = [
    "ArraySource",
    "DatasetSource",
    "ImageCache",
    "ImageReadError",
    "ImageReadWarning",
    "ImageSource",
    "PathSource",
    "Scan",
    "list_images",
    "read_dicom",
    "read_dicom_table",
    "read_image",
    "scan",
]
