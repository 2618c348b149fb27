"""One training step in parts, each of which can be run and timed separately."""

import math
from functools import cached_property

import torch
from bare import Bare
from devices import autocast, name_of
from torch.nn.utils import get_total_norm

from otcxr_sk import Objective, Optimizer, Views
from otcxr_sk.method import (
    OTCXRModel,
    build_encoder,
    cosine_cost,
    tokens,
    transport_plan,
    true_plan,
)
from otcxr_sk.training import choose_precision
from otcxr_sk.training._progress import WATCHED, Losses, Tally, snapshot


class OneStep:
    """A model, a batch of noise, and the parts of a step.

    Parameters
    ----------
    name : str
        Name of a timm model.
    size, batch, match_stride : int
    precision : {"auto", "bfloat16", "float32"}
        Arithmetic of the encoder.
    device : str, default="cpu"
    """

    def __init__(self, name, size, batch, precision, match_stride=16, device="cpu"):
        # With the index of a GPU, as tensors there have it.
        self.device = torch.empty(0, device=device).device
        self.dtype = choose_precision(precision, self.device)
        self.views, self.objective = Views(), Objective()
        encoder = build_encoder(name, size=size, match_stride=match_stride)
        model = OTCXRModel(encoder, self.objective)
        self.model = model.train().to(self.device, memory_format=torch.channels_last)
        self.optimizer = Optimizer().build(self.model, on_gpu=self.device.type == "cuda")
        self.generator = torch.Generator().manual_seed(0)
        self.tally, self.losses = Tally(), Losses()
        self.name, self.batch, self.size = name, batch, size

    @cached_property
    def images(self):
        shape = self.batch, 1, self.size, self.size
        return torch.randn(shape, generator=self.generator).to(self.device)

    @cached_property
    def views_and_affine(self):
        return self.draw()

    @cached_property
    def maps(self):
        """The encoder's dense maps and embedding, and a gradient for each."""
        with torch.no_grad(), autocast(self.device, self.dtype):
            maps = self.model.encoder(self.views_and_affine[0])
        return [m.clone().requires_grad_() for m in maps], [torch.randn_like(m) for m in maps]

    @cached_property
    def tokens(self):
        """The tokens of both views that are matched."""
        with torch.no_grad():
            matched = self.model.infuse(self.model.dense_head(tokens(self.maps[0][0])))
        return matched.clone().requires_grad_()

    @property
    def arithmetic(self):
        """Name of the encoder's dtype."""
        return name_of(self.dtype)

    @property
    def n_tokens(self):
        rows, columns = self.model.grid
        return rows * columns

    def draw(self):
        return self.views(self.images, self.generator)

    def encode(self):
        """Run the encoder alone, forward and backward."""
        with autocast(self.device, self.dtype):
            maps = self.model.encoder(self.views_and_affine[0])
        torch.autograd.backward(maps, [torch.ones_like(m) for m in maps])

    def heads(self):
        """Run everything after the encoder, forward and backward: heads, transport, losses."""
        self.heads_forward().backward()

    def heads_forward(self):
        return self.objective.total(self.model.terms(*self.maps[0], self.views_and_affine[1]))

    def read(self):
        """Run the read-out alone, forward and backward."""
        matched, last, _ = self.maps[0]
        (error, _), _ = self.model._read(tokens(matched), last, self.views_and_affine[1])
        error.mean().backward()

    def transport(self):
        """Compute cost, true plan, plan and divergence, forward and backward."""
        matching = self.model.match(self.tokens, self.views_and_affine[1])
        matching.loss.mean().backward()

    def longest_plan(self):
        """Compute a plan with all iterations allowed; tokens of an untrained model need fewer."""
        cost = cosine_cost(*self.tokens.detach())
        truth = true_plan(self.views_and_affine[1], self.model.grid)
        options = {"epsilon": self.model.epsilon, "between": (0.0, 2.0), "tol": 0}
        transport_plan(cost, truth.sum(2), truth.sum(1), **options)

    def learn(self):
        """Draw views, run forward and backward, and return the loss terms and the embedding."""
        views, affine = self.draw()
        with autocast(self.device, self.dtype):
            terms, embedding = self.model(views, affine)
        self.objective.total(terms).backward()
        return terms, embedding

    def record(self, terms, embedding):
        """Check the losses that have come, and count a batch for the history."""
        loss = self.objective.total(terms)
        assert self.losses.add(loss)
        self.tally.add({"loss": loss, **terms}, embedding, self.batch)

    def end_epoch(self):
        """Do what follows every epoch: health of embeddings, a check, a copy of the weights."""
        tally = Tally()
        channels = self.model.encoder.last_shape[0]
        loss = torch.zeros((), device=self.device)
        tally.add({"loss": loss}, torch.randn(WATCHED, channels, device=self.device), WATCHED)
        assert tally.is_finite()
        tally.means(WATCHED)
        assert get_total_norm([*self.model.parameters()], math.inf).isfinite()
        snapshot(self.model)

    def bare(self):
        """Make a function that trains timm's model alone on as many images as there are views."""
        alone = Bare(self.name, self.size, self.arithmetic, self.device)
        return alone.training(2 * self.batch)
