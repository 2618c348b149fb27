"""The version of this library, as installed."""

from importlib.metadata import version

__version__ = version("otcxr-sk")
