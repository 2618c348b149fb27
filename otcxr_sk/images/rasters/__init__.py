"""Decode PNG, JPEG, TIFF and NPY files."""

from otcxr_sk.images.rasters._jpeg import decode_jpeg
from otcxr_sk.images.rasters._npy import read_npy
from otcxr_sk.images.rasters._png import decode_png
from otcxr_sk.images.rasters._tiff import decode_tiff

__all__ = ["decode_jpeg", "decode_png", "decode_tiff", "read_npy"]
