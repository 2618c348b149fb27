"""Self-supervised peers, with heads and losses from lightly, combined as in its examples.

A peer turns two views of a batch into a loss. To add one, write a class here and add it to
`PEERS`::

    class SimSiam(Peer):
        weights = (512, 128, 2048)  # values to search, the documented one first

        def __init__(self, encoder, weight):
            super().__init__(encoder)
            self.projector = SimSiamProjectionHead(self.channels, 512, 128)
            self.predictor = SimSiamPredictionHead(128, weight, 128)

        def loss(self, views, affine):
            z = self.projector(encode(self.encoder, views)[0])
            (p_s, p_t), (z_s, z_t) = self.predictor(z).chunk(2), z.detach().chunk(2)
            return -(cosine_similarity(p_s, z_t) + cosine_similarity(p_t, z_s)).mean() / 2

Dense peers use the tokens that OTCXR matches instead of the last map, as published: for small
images the last map has only a few places.
"""

import copy
import math
import warnings
from abc import ABC, abstractmethod

import torch
from lightly.loss import (
    BarlowTwinsLoss,
    DINOLoss,
    LeJEPALoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    VICRegLLoss,
    VICRegLoss,
)
from lightly.models.modules.heads import (
    BarlowTwinsProjectionHead,
    BYOLPredictionHead,
    BYOLProjectionHead,
    DenseCLProjectionHead,
    DINOProjectionHead,
    LeJEPAProjectionHead,
    SimCLRProjectionHead,
    VicRegLLocalProjectionHead,
    VICRegProjectionHead,
)
from lightly.models.utils import select_most_similar, update_momentum
from torch import nn

from otcxr_sk.method import token_centers, tokens
from otcxr_sk.training import choose_precision

# A run has only a few hundred steps: a slower teacher would stay close to its random start.
MOMENTUM = 0.99
BANK = (4096, 128)
# Share of the run in which DINO's last layer is frozen: one epoch of ten.
FROZEN = 0.1


def encode(encoder, views):
    """Return pooled features (2B, C) and tokens (2B, N, C') of views, float32.

    Only the encoder runs in lower precision, as in the library's trainer.
    """
    dtype = choose_precision("auto", views.device)
    with torch.autocast(views.device.type, dtype, enabled=dtype != torch.float32):
        matched, _, embedding = encoder(views)
    return embedding, tokens(matched)


class Peer(nn.Module, ABC):
    """An encoder with heads.

    Attributes
    ----------
    weights : tuple
        Values of the one setting that is searched besides the learning rate.
    """

    weights: tuple
    done = 0.0

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.channels, self.dense_channels = encoder.last_shape[0], encoder.match_shape[0]

    @abstractmethod
    def loss(self, views, affine):
        """Return the loss of views (2B, 1, H, W), first views before second, cut by `affine`."""

    def after_step(self, done):
        """Update what changes after an optimizer step; `done` is the share of steps taken."""
        self.done = done


class Siamese(Peer):
    """One head on the pooled features, and a `criterion` on its outputs for both views."""

    def loss(self, views, affine):
        return self.criterion(*self.head(encode(self.encoder, views)[0]).chunk(2))


class SimCLR(Siamese):
    weights = (0.5, 0.2, 0.1)  # temperature

    def __init__(self, encoder, weight):
        super().__init__(encoder)
        self.head = SimCLRProjectionHead(self.channels, 512, 128)
        self.criterion = NTXentLoss(temperature=weight)


class VICReg(Siamese):
    weights = (1.0, 0.2, 5.0)  # weight of the covariance term

    def __init__(self, encoder, weight):
        super().__init__(encoder)
        self.head = VICRegProjectionHead(self.channels, 2048, 2048, num_layers=2)
        self.criterion = VICRegLoss(nu_param=weight)


class BarlowTwins(Siamese):
    weights = (5e-3, 1e-3, 2e-2)  # weight of the redundancy term

    def __init__(self, encoder, weight):
        super().__init__(encoder)
        self.head = BarlowTwinsProjectionHead(self.channels, 2048, 2048)
        self.criterion = BarlowTwinsLoss(lambda_param=weight)


class LeJEPA(Siamese):
    weights = (0.05, 0.02, 0.1)  # weight of SIGReg

    def __init__(self, encoder, weight):
        super().__init__(encoder)
        self.head = LeJEPAProjectionHead(self.channels)
        self.lejepa = LeJEPALoss(lambda_param=weight)

    def criterion(self, z_s, z_t):
        both = torch.stack([z_s, z_t])
        # Both views are global. The loss requires local ones too: the same again change neither
        # term.
        return self.lejepa(local_proj=both, global_proj=both)


class VICRegL(Peer):
    weights = (0.75, 0.5, 0.9)  # weight of the image-level part; the rest is local

    def __init__(self, encoder, weight):
        super().__init__(encoder)
        self.head = BarlowTwinsProjectionHead(self.channels, 2048, 2048)
        self.local_head = VicRegLLocalProjectionHead(self.dense_channels, 128, 128)
        self.criterion = VICRegLLoss(alpha=weight)

    def loss(self, views, affine):
        pooled, dense = encode(self.encoder, views)
        grid = self.encoder.match_shape[1:]
        local = self.local_head(dense).unflatten(1, grid).chunk(2)
        places = token_centers(affine, grid).unflatten(1, grid).chunk(2)
        features = list(zip(self.head(pooled).chunk(2), local, strict=True))
        return self.criterion(features, places).squeeze()


class WithTeacher(Peer):
    """A student and its teacher: the same network, whose weights are a moving average.

    Parameters
    ----------
    make_heads : callable
        Returns the list of heads that both have on top of the encoder.
    momentum : float
        Momentum of the teacher at the start; it rises to 1 along half a cosine.
    """

    def __init__(self, encoder, make_heads, momentum):
        super().__init__(encoder)
        self.student = nn.ModuleList([encoder, *make_heads()])
        self.teacher = nn.ModuleList([copy.deepcopy(encoder), *make_heads()])
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.momentum = momentum

    def after_step(self, done):
        super().after_step(done)
        momentum = 1 - (1 - self.momentum) * (1 + math.cos(math.pi * done)) / 2
        update_momentum(self.student, self.teacher, momentum)


class BYOL(WithTeacher):
    weights = (0.99, 0.996, 0.9)  # momentum

    def __init__(self, encoder, weight):
        channels = encoder.last_shape[0]
        super().__init__(encoder, lambda: [BYOLProjectionHead(channels, 1024, 256)], weight)
        self.predictor = BYOLPredictionHead(256, 1024, 256)
        self.criterion = NegativeCosineSimilarity()

    def loss(self, views, affine):
        encoder, head = self.student
        p_s, p_t = self.predictor(head(encode(encoder, views)[0])).chunk(2)
        with torch.no_grad():
            encoder, head = self.teacher
            z_s, z_t = head(encode(encoder, views)[0]).chunk(2)
        return (self.criterion(p_s, z_t) + self.criterion(p_t, z_s)) / 2


class DINO(WithTeacher):
    weights = (0.04, 0.02, 0.07)  # temperature of the teacher

    def __init__(self, encoder, weight):
        channels = encoder.last_shape[0]
        with warnings.catch_warnings():
            # lightly uses a weight_norm that torch has replaced.
            warnings.simplefilter("ignore", FutureWarning)
            super().__init__(
                encoder, lambda: [DINOProjectionHead(channels, 512, 64, 2048)], MOMENTUM
            )
        self.criterion = DINOLoss(2048, teacher_temp=weight)

    def loss(self, views, affine):
        (encoder, head), (slow_encoder, slow_head) = self.student, self.teacher
        head.last_layer.weight_v.requires_grad_(self.done >= FROZEN)
        student = head(encode(encoder, views)[0]).chunk(2)
        with torch.no_grad():
            teacher = slow_head(encode(slow_encoder, views)[0]).chunk(2)
        return self.criterion(teacher, student)


class DenseCL(WithTeacher):
    weights = (0.5, 0.2, 0.1)  # temperature

    def __init__(self, encoder, weight):
        widths = encoder.last_shape[0], encoder.match_shape[0]
        super().__init__(
            encoder, lambda: [DenseCLProjectionHead(width, 512, 128) for width in widths], MOMENTUM
        )
        self.global_criterion, self.local_criterion = (
            NTXentLoss(temperature=weight, memory_bank_size=BANK) for _ in range(2)
        )

    def loss(self, views, affine):
        query, key = views.chunk(2)
        encoder, head, local_head = self.student
        pooled, dense = encode(encoder, query)
        with torch.no_grad():
            slow_encoder, slow_head, slow_local_head = self.teacher
            slow_pooled, slow_dense = encode(slow_encoder, key)
            slow_local = select_most_similar(dense, slow_dense, slow_local_head(slow_dense))
        return (
            self.global_criterion(head(pooled), slow_head(slow_pooled))
            + self.local_criterion(local_head(dense).flatten(0, 1), slow_local.flatten(0, 1))
        ) / 2


PEERS = {
    "simclr": SimCLR,
    "byol": BYOL,
    "vicreg": VICReg,
    "barlow twins": BarlowTwins,
    "densecl": DenseCL,
    "vicregl": VICRegL,
    "dino": DINO,
    "lejepa": LeJEPA,
}
