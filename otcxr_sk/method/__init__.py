"""The method in torch alone: views, encoders, CV-SIM, optimal transport and the objective."""

from otcxr_sk.method._encoders import POOLINGS, DenseEncoder, build_encoder, pool, tokens
from otcxr_sk.method._geometry import token_centers, true_plan
from otcxr_sk.method._model import OTCXRModel
from otcxr_sk.method._objective import Objective, without_read_out
from otcxr_sk.method._statistics import (
    BatchStatistics,
    effective_rank,
    matching_accuracy,
    spectrum,
    spread,
)
from otcxr_sk.method._transport import cosine_cost, transport_plan
from otcxr_sk.method._views import NUMBERS_PER_VIEW, Views
from otcxr_sk.method._weights import locate

__all__ = [
    "NUMBERS_PER_VIEW",
    "POOLINGS",
    "BatchStatistics",
    "DenseEncoder",
    "OTCXRModel",
    "Objective",
    "Views",
    "build_encoder",
    "cosine_cost",
    "effective_rank",
    "locate",
    "matching_accuracy",
    "pool",
    "spectrum",
    "spread",
    "token_centers",
    "tokens",
    "transport_plan",
    "true_plan",
    "without_read_out",
]
