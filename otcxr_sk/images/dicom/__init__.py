"""Read DICOM files as images, and their headers as a table."""

from otcxr_sk.images.dicom._file import looks_like_dicom
from otcxr_sk.images.dicom._read import as_modalities, dicom_pixels, read_dicom
from otcxr_sk.images.dicom._table import read_dicom_table, read_dicom_texts

__all__ = [
    "as_modalities",
    "dicom_pixels",
    "looks_like_dicom",
    "read_dicom",
    "read_dicom_table",
    "read_dicom_texts",
]
