"""How good an embedding is for a task, patients kept apart."""

from otcxr_sk.evaluation._probe import few_labels, linear_probe, make_probe

__all__ = ["few_labels", "linear_probe", "make_probe"]
