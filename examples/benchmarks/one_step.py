"""One training step in parts, each of which can be run and timed separately."""

from functools import cached_property

import torch

from otcxr_sk import Objective, Optimizer, Views
from otcxr_sk.method import OTCXRModel, build_encoder, cosine_cost, transport_plan, true_plan
from otcxr_sk.training import choose_precision
from otcxr_sk.training._progress import WATCHED, Tally, snapshot

CPU = torch.device("cpu")


class OneStep:
    """A model, a batch of noise, and the parts of a step.

    Parameters
    ----------
    name : str
        Name of a timm model.
    size, batch, match_stride : int
    precision : {"auto", "bfloat16", "float32"}
        Arithmetic of the encoder.
    """

    def __init__(self, name, size, batch, precision, match_stride=16):
        self.dtype = choose_precision(precision, CPU)
        self.views, self.objective = Views(), Objective()
        encoder = build_encoder(name, size=size, match_stride=match_stride)
        model = OTCXRModel(encoder, self.objective)
        self.model = model.train().to(memory_format=torch.channels_last)
        self.optimizer = Optimizer().build(self.model)
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
        """The encoder's dense maps, and a gradient for each."""
        with torch.no_grad(), self._autocast():
            maps = self.model.encoder(self.views_and_affine[0])
        return [m.clone().requires_grad_() for m in maps], [torch.randn_like(m) for m in maps]

    @cached_property
    def tokens(self):
        """The tokens of both views that are matched."""
        with torch.no_grad():
            dense = self.maps[0][0].float().flatten(2).transpose(1, 2)
            matched = self.model.infuse(self.model.dense_head(dense))
        return matched.clone().requires_grad_()

    @property
    def arithmetic(self):
        """Name of the encoder's dtype."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def n_tokens(self):
        rows, columns = self.model.grid
        return rows * columns

    def _autocast(self):
        return torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32)

    def draw(self):
        return self.views(self.images, self.generator)

    def encode(self):
        """Run the encoder alone, forward and backward."""
        with self._autocast():
            maps = self.model.encoder(self.views_and_affine[0])
        torch.autograd.backward(maps, [torch.ones_like(m) for m in maps])

    def heads(self):
        """Run everything after the encoder, forward and backward: heads, transport, losses."""
        terms = self.model.terms(*self.maps[0], self.views_and_affine[1])
        self.objective.total(terms).backward()

    def transport(self):
        """Compute cost, true plan, plan and divergence, forward and backward."""
        matching = self.model.match(self.tokens, self.views_and_affine[1])
        matching.loss.mean().backward()

    def longest_plan(self):
        """Compute a plan with all iterations allowed; tokens of an untrained model need fewer."""
        cost = cosine_cost(*self.tokens.detach())
        truth = true_plan(self.views_and_affine[1], self.model.grid)
        transport_plan(cost, truth.sum(2), truth.sum(1), epsilon=self.model.epsilon, tol=0)

    def learn(self):
        """Draw views, run forward and backward, and return the loss terms and the embedding."""
        views, affine = self.draw()
        with self._autocast():
            terms, embedding = self.model(views, affine)
        self.objective.total(terms).backward()
        return terms, embedding

    def record(self, terms, embedding):
        """Check the loss of a batch, and count it for the history."""
        loss = self.objective.total(terms)
        assert torch.isfinite(loss)
        self.tally.add({"loss": loss, **terms}, embedding, self.batch)

    def end_epoch(self):
        """Do what follows every epoch: health of embeddings, a check, a copy of the weights."""
        tally = Tally()
        tally.add({}, torch.randn(WATCHED, self.model.encoder.last_shape[0]), WATCHED)
        tally.means(WATCHED)
        assert all(value.isfinite().all() for value in self.model.parameters())
        snapshot(self.model)
