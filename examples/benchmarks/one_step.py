"""One step of training in parts, each of which can be run, and timed, by itself."""

from functools import cached_property

import torch

from otcxr_sk.method.encoders import build_encoder
from otcxr_sk.method.geometry import true_plan
from otcxr_sk.method.model import OTCXRModel
from otcxr_sk.method.objective import Objective
from otcxr_sk.method.transport import cosine_cost, transport_plan
from otcxr_sk.method.views import ViewSampler
from otcxr_sk.training.progress import WATCHED, Tally, snapshot
from otcxr_sk.training.runtime import choose_precision

CPU = torch.device("cpu")


class OneStep:
    """A model, a batch of noise and the parts of a step.

    Parameters
    ----------
    name : str
        Of a timm model.
    size, batch, match_stride : int
    precision : {"auto", "bf16", "float32"}
    """

    def __init__(self, name, size, batch, precision, match_stride=16):
        self.dtype = choose_precision(precision, CPU)
        model = OTCXRModel(build_encoder(name, size=size, match_stride=match_stride))
        self.model = model.train().to(memory_format=torch.channels_last)
        self.adamw = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.sampler, self.objective = ViewSampler(), Objective(1.0, 2.0, 0.1, 10.0)
        self.generator = torch.Generator().manual_seed(0)
        self.tally = Tally()
        self.batch, self.size = batch, size

    @cached_property
    def images(self):
        return torch.randn(self.batch, 1, self.size, self.size, generator=self.generator)

    @cached_property
    def views_and_affine(self):
        return self.draw()

    @cached_property
    def maps(self):
        """What the encoder gives, and a gradient for each."""
        with torch.no_grad(), self._autocast():
            maps = self.model.encoder(self.views_and_affine[0])
        return [m.clone().requires_grad_() for m in maps], [torch.randn_like(m) for m in maps]

    @cached_property
    def tokens(self):
        """What is matched: tokens of both views."""
        with torch.no_grad():
            dense = self.maps[0][0].float().flatten(2).transpose(1, 2)
            matched = self.model.infuse(*self.model.dense_head(dense).chunk(2))
        return [q.clone().requires_grad_() for q in matched]

    @property
    def name(self):
        """Of the encoder's arithmetic."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def n_tokens(self):
        rows, columns = self.model.grid
        return rows * columns

    def _autocast(self):
        return torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32)

    def draw(self):
        return self.sampler(self.images, self.generator)

    def encode(self):
        """Bare forward and backward of the encoder."""
        with self._autocast():
            maps = self.model.encoder(self.views_and_affine[0])
        torch.autograd.backward(maps, [torch.ones_like(m) for m in maps])

    def heads(self):
        """All of forward and backward but the encoder: heads, transport and losses."""
        terms = self.model.terms(*self.maps[0], self.views_and_affine[1])
        self.objective.total(terms).backward()

    def transport(self):
        """Cost, true plan, plan and divergence, forward and backward."""
        matching = self.model.match(*self.tokens, self.views_and_affine[1])
        matching.loss.mean().backward()

    def longest_plan(self):
        """As many iterations as there may be; tokens not trained need fewer."""
        cost = cosine_cost(*(q.detach() for q in self.tokens))
        truth = true_plan(self.views_and_affine[1], self.model.grid)
        transport_plan(cost, truth.sum(2), truth.sum(1), epsilon=self.model.epsilon, tol=0)

    def learn(self):
        """Views, forward and backward; gives the terms of the loss and the embedding."""
        views, affine = self.draw()
        with self._autocast():
            terms, embedding = self.model(views, affine)
        self.objective.total(terms).backward()
        return terms, embedding

    def note(self, terms, embedding):
        """What is written down of every batch, and checked."""
        loss = self.objective.total(terms)
        assert torch.isfinite(loss)
        self.tally.add({"loss": loss, **terms}, embedding, self.batch)

    def end_epoch(self):
        """What is done after every epoch: health of embeddings, a check, a copy of the weights."""
        tally = Tally()
        tally.add({}, torch.randn(WATCHED, self.model.encoder.last_shape[0]), WATCHED)
        tally.means(WATCHED)
        assert all(value.isfinite().all() for value in self.model.parameters())
        snapshot(self.model)
