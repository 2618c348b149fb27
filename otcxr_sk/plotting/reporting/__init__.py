"""One page about a fitted encoder."""

from otcxr_sk.plotting.reporting._report import report

__all__ = ["report"]
