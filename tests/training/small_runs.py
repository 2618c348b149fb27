"""What the tests of training share: smooth images, a small model, a trainer of two epochs."""

import torch
from torch import nn

from otcxr_sk.method.encoders import build_encoder
from otcxr_sk.method.model import OTCXRModel
from otcxr_sk.method.objective import Objective
from otcxr_sk.method.views import ViewSampler
from otcxr_sk.training.trainer import Trainer

SIZE = 16


class Images:
    """Smooth random images, in memory."""

    def __init__(self, n=24):
        coarse = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        self.images = nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic").numpy()
        self.batches = []

    def __len__(self):
        return len(self.images)

    def read(self, indices, size):
        assert size == SIZE
        self.batches.append(indices)
        return self.images[indices]


def make_model(seed=0, dropout=0.0, norm=True):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(
            nn.Conv2d(1, 8, 4, stride=4),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        built = build_encoder(encoder, size=SIZE, match_stride=4)
        return OTCXRModel(built, head_dim=8, projection_dim=8, cv_sim_depth=1)


def make_trainer(**options):
    defaults = {
        "views": ViewSampler(),
        "objective": Objective(alpha=1, beta=1, eta=0.1, global_weight=1),
        "mean": 0.1,
        "std": 1.1,
        "size": SIZE,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "seed": 0,
        "device": torch.device("cpu"),
        "precision": "float32",
    }
    return Trainer(**defaults | options)
