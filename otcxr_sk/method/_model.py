"""Encoder, heads and CV-SIM as one module, from views to the terms of the loss."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from otcxr_sk.method._cv_sim import CVSIM
from otcxr_sk.method._encoders import DenseEncoder, tokens
from otcxr_sk.method._geometry import true_plan
from otcxr_sk.method._objective import Objective, regularizers
from otcxr_sk.method._read_out import (
    ReadOut,
    asked_places,
    own_places,
    reading_error,
    token_spread,
)
from otcxr_sk.method._statistics import WHOLE_BATCH, BatchStatistics, arrivals
from otcxr_sk.method._transport import cosine_cost, divergence_from_truth, transport_plan


@dataclass
class Matching:
    """Transport between the N tokens of both views, for a batch of B images.

    Attributes
    ----------
    loss : Tensor of shape (B,)
        Transport term of each image, differentiable in the cost.
    plan : Tensor of shape (B, N, N)
        Transport plan from tokens of view `s` (rows) to tokens of view `t`.
    error : Tensor of shape (B,)
        L1 error of the plan's marginals.
    """

    loss: Tensor
    plan: Tensor
    error: Tensor


class OTCXRModel(nn.Module):
    """The network that is trained: encoder, dense head, CV-SIM and image-level projection.

    Parameters
    ----------
    encoder : DenseEncoder
        Shared by both views.
    objective : Objective
        Determines how tokens are matched: `epsilon`, `transport` and `cv_sim_depth`; and which
        terms teach: those that have a weight.
    head_dim : int, default=128
        Width D of the dense head, a multiple of 8.
    projection_dim : int, default=512
        Width of the image-level projection.

    Attributes
    ----------
    encoding : callable
        Returns a context in which `forward` calls the encoder.
    """

    def __init__(
        self,
        encoder: DenseEncoder,
        objective: Objective,
        *,
        head_dim: int = 128,
        projection_dim: int = 512,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        channels, rows, columns = encoder.match_shape
        self.grid = (rows, columns)
        self.epsilon, self.transport = objective.epsilon, objective.transport
        self._weighted = frozenset(objective.weights)
        self.encoding: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.dense_head = nn.Sequential(
            nn.Linear(channels, 2 * head_dim), nn.GELU(), nn.Linear(2 * head_dim, head_dim)
        )
        self.cv_sim = CVSIM(head_dim, objective.cv_sim_depth)
        self.projector = nn.Sequential(
            nn.Linear(encoder.last_shape[0], projection_dim),
            nn.BatchNorm1d(projection_dim),
            nn.ReLU(),
            nn.Linear(projection_dim, projection_dim),
        )
        self.read_out = ReadOut(encoder.last_shape[0], channels) if objective.read_out > 0 else None

    def forward(
        self, views: Tensor, affine: Tensor, statistics: BatchStatistics = WHOLE_BATCH
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the terms of the loss for two views of every image.

        Parameters
        ----------
        views : Tensor of shape (2 * B, 1, H, W)
            All first views, then all second views, as from `Views`.
        affine : Tensor of shape (2 * B, 2, 3)
            The affine maps of the views.
        statistics : BatchStatistics
            Takes means, variances and covariances over the batch.

        Returns
        -------
        terms : dict of str to scalar Tensor
            Terms of the loss; and, without gradient, ``marginal_error``, ``matching_accuracy``
            and ``matching_chance``, the accuracy of a uniform plan, and, where there is a
            read-out, ``token_spread`` of the tokens that it tells.
        embedding : Tensor of shape (2 * B, C)
            Without gradient.
        """
        with self.encoding():
            matched, last, embedding = self.encoder(views)
        return self.terms(matched, last, embedding, affine, statistics), embedding.detach()

    def terms(
        self,
        matched: Tensor,
        last: Tensor,
        embedding: Tensor,
        affine: Tensor,
        statistics: BatchStatistics = WHOLE_BATCH,
    ) -> dict[str, Tensor]:
        """Compute the terms that `forward` returns from what the encoder does, in float32."""
        with torch.autocast(matched.device.type, enabled=False):
            matched = tokens(matched)
            q = self.infuse(self.dense_head(matched))
            matching = self.match(q, affine, statistics)
            variance, covariance = regularizers(q, statistics)
            p = _by_view(self.projector(embedding))
            global_variance, global_covariance = regularizers(p, statistics)
            arrived, by_chance, counts = arrivals(matching.plan, affine, self.grid)
            transport, invariance, error, accuracy, chance, *reading = statistics.means(
                (self._taught("transport", matching.loss), None),
                (self._taught("global_invariance", (p[0] - p[1]).square()), None),
                (matching.error, None),
                (arrived, counts),
                (by_chance, counts),
                *self._read(matched, last, affine),
            )
        return {
            "transport": transport,
            "variance": variance,
            "covariance": covariance,
            "global_invariance": invariance,
            "global_variance": global_variance,
            "global_covariance": global_covariance,
            "marginal_error": error,
            "matching_accuracy": accuracy,
            "matching_chance": chance,
            **dict(zip(("read_out", "token_spread"), reading, strict=False)),
        }

    def _taught(self, term: str, values: Tensor) -> Tensor:
        # Means over several processes are taken together. Without this, a term of no weight would
        # give gradients of zero to what nothing else teaches, and weight decay would shrink it.
        return values if term in self._weighted else values.detach()

    def _read(self, matched: Tensor, last: Tensor, affine: Tensor) -> list[tuple[Tensor, None]]:
        """Read what `t` shows from the last map of `s`; nothing if there is no read-out."""
        if self.read_out is None:
            return []
        values = tokens(last[: len(last) // 2])
        places = own_places((last.shape[2], last.shape[3]), affine).expand(len(values), -1, -1)
        told = self.read_out(values, places, *asked_places(affine, self.grid))
        shown = matched[len(values) :]
        return [(reading_error(told, shown), None), (token_spread(shown), None)]

    def dense_tokens(self, views: Tensor) -> Tensor:
        """Return the tokens (2 * B, N, D) of the views."""
        return self.dense_head(tokens(self.encoder(views)[0]))

    def infuse(self, z: Tensor) -> Tensor:
        """Return the tokens (2, B, N, D) that are compared, of both views.

        They are the tokens (2 * B, N, D) that `dense_tokens` returns, centered on their view's
        mean, then infused. Without centering, all tokens of an image could share one direction:
        variance between images would then satisfy the variance term, and every plan would be
        optimal.
        """
        return self.cv_sim(_by_view(z - z.mean(1, keepdim=True)))

    def match(
        self, q: Tensor, affine: Tensor, statistics: BatchStatistics = WHOLE_BATCH
    ) -> Matching:
        """Transport the tokens of view `s` to those of view `t`, both in `q` (2, B, N, D)."""
        cost = cosine_cost(*q)
        truth = true_plan(affine, self.grid)
        plan, error = transport_plan(
            cost,
            truth.sum(2),
            truth.sum(1),
            epsilon=self.epsilon,
            between=(0.0, 2.0),
            statistics=statistics,
        )
        if self.transport == "inverse":
            loss = divergence_from_truth(cost, plan, truth, epsilon=self.epsilon)
        else:
            loss = (plan * cost).sum((1, 2))
        return Matching(loss, plan, error)


def _by_view(values: Tensor) -> Tensor:
    """Give the two views of a batch (2 * B, ...) an axis of their own: (2, B, ...)."""
    return values.unflatten(0, (2, -1))
