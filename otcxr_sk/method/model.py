"""Encoder, heads and CV-SIM as one module: views in, terms of the loss out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from otcxr_sk.method.cv_sim import CVSIM
from otcxr_sk.method.diagnostics import matching_accuracy
from otcxr_sk.method.encoders import Encoder, pool, tokens
from otcxr_sk.method.geometry import true_plan
from otcxr_sk.method.objective import regularisers
from otcxr_sk.method.statistics import WHOLE, Batch
from otcxr_sk.method.transport import cosine_cost, divergence_from_truth, transport_plan


@dataclass
class Matching:
    """What was matched with what, for a batch of B pairs of views of N tokens each.

    Attributes
    ----------
    loss : Tensor of shape (B,)
        Per image, differentiable in the cost.
    plan : Tensor of shape (B, N, N)
        Transport plan from tokens of view `s` (rows) to tokens of view `t`.
    error : Tensor of shape (B,)
        L1 error of the plan's marginals.
    """

    loss: Tensor
    plan: Tensor
    error: Tensor


class OTCXRModel(nn.Module):
    """The network of OTCXR.

    Parameters
    ----------
    encoder : Encoder
        Shared by both views.
    head_dim : int
        Width D of the dense head, a multiple of 8.
    projection_dim : int
        Width of the image-level projection.
    cv_sim_depth : int
        Number of CV-SIM blocks, 0 for none.
    epsilon : float
        Entropic regularisation of the transport plan, in the unit of the cost in [0, 2].
    transport : {"inverse", "direct"}
        Whether the plan is taught where the parts of the image really are (the loss is its
        divergence from the true plan) or whatever it says is made cheaper (its cost, ``<P, M>``).
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        head_dim: int = 128,
        projection_dim: int = 512,
        cv_sim_depth: int = 0,
        epsilon: float = 0.1,
        transport: Literal["inverse", "direct"] = "inverse",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        channels, rows, columns = encoder.match_shape
        self.grid = (rows, columns)
        self.epsilon = epsilon
        self.transport = transport
        self.dense_head = nn.Sequential(
            nn.Linear(channels, 2 * head_dim), nn.GELU(), nn.Linear(2 * head_dim, head_dim)
        )
        self.cv_sim = CVSIM(head_dim, cv_sim_depth)
        self.projector = nn.Sequential(
            nn.Linear(encoder.last_shape[0], projection_dim),
            nn.BatchNorm1d(projection_dim),
            nn.ReLU(),
            nn.Linear(projection_dim, projection_dim),
        )

    def forward(
        self, views: Tensor, affine: Tensor, batch: Batch = WHOLE
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Terms of the loss for two views of a batch.

        Parameters
        ----------
        views : Tensor of shape (2 * B, 1, H, W)
            First views, then second views, as from `ViewSampler`.
        affine : Tensor of shape (2 * B, 2, 3)
            The maps that made them.
        batch : Batch
            How statistics are taken over the images.

        Returns
        -------
        terms : dict of str to scalar Tensor
            Terms of the loss, and numbers to watch (without gradient): the marginal error, the
            matching accuracy and that of a uniform plan.
        embedding : Tensor of shape (2 * B, C)
            Pooled encoder map, without gradient.
        """
        matched, last = self.encoder(views)
        return self.terms(matched, last, affine, batch), pool(last).detach()

    def terms(
        self, matched: Tensor, last: Tensor, affine: Tensor, batch: Batch = WHOLE
    ) -> dict[str, Tensor]:
        """Compute what `forward` returns from the encoder's two dense maps, in float32."""
        with torch.autocast(matched.device.type, enabled=False):
            q_s, q_t = self.infuse(*self.dense_head(tokens(matched)).chunk(2))
            matching = self.match(q_s, q_t, affine, batch)
            variance, covariance = regularisers(q_s, q_t, batch)
            p_s, p_t = self.projector(pool(last)).chunk(2)
            global_variance, global_covariance = regularisers(p_s, p_t, batch)
            accuracy, chance = matching_accuracy(matching.plan, affine, self.grid, batch)
        return {
            "transport": batch.mean(matching.loss),
            "variance": variance,
            "covariance": covariance,
            "global_invariance": batch.mean((p_s - p_t).square()),
            "global_variance": global_variance,
            "global_covariance": global_covariance,
            "marginal_error": batch.mean(matching.error),
            "matching_accuracy": accuracy,
            "matching_chance": chance,
        }

    def dense_tokens(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D) of the first and of the second views."""
        z_s, z_t = self.dense_head(tokens(self.encoder(views)[0])).chunk(2)
        return z_s, z_t

    def infuse(self, z_s: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens that are compared: centred on their image's mean, then through CV-SIM.

        Without centring all tokens of an image can share one direction: variance between
        images then satisfies the variance term, and every plan is optimal.
        """
        return self.cv_sim(*(z - z.mean(1, keepdim=True) for z in (z_s, z_t)))

    def match(self, q_s: Tensor, q_t: Tensor, affine: Tensor, batch: Batch = WHOLE) -> Matching:
        """Transport the tokens (B, N, D) of view `s` to those of view `t`."""
        cost = cosine_cost(q_s, q_t)
        truth = true_plan(affine, self.grid)
        marginals = truth.sum(2), truth.sum(1)
        plan, error = transport_plan(cost, *marginals, epsilon=self.epsilon, batch=batch)
        if self.transport == "inverse":
            loss = divergence_from_truth(cost, plan, truth, epsilon=self.epsilon)
        else:
            loss = (plan * cost).sum((1, 2))
        return Matching(loss, plan, error)
