"""A file or an array to grayscale images, polarity and range right."""

from otcxr_sk.images._dicom import read_dicom
from otcxr_sk.images._dicom_table import read_dicom_table
from otcxr_sk.images._errors import ImageReadError, ImageReadWarning
from otcxr_sk.images._files import read_image
from otcxr_sk.images._source import ArraySource, ImageSource, PathSource, scan

__all__ = [
    "ArraySource",
    "ImageReadError",
    "ImageReadWarning",
    "ImageSource",
    "PathSource",
    "read_dicom",
    "read_dicom_table",
    "read_image",
    "scan",
]
