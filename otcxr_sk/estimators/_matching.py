"""Transport between the tokens of images: of two views, or of two images as wholes."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import Bunch
from torch import Tensor

from otcxr_sk._quote import counted
from otcxr_sk._torch_defaults import inference
from otcxr_sk.estimators._encoder import FittedEncoder
from otcxr_sk.images import FITTED, ImageSource, Spreads, spread
from otcxr_sk.method import OTCXRModel, matching_accuracy
from otcxr_sk.training import NonFiniteLossError, choose_device, put_on


def match_views(encoder: FittedEncoder, model: OTCXRModel, source: ImageSource, seed: int) -> Bunch:
    """Do the work of `OTCXRPretrainer.match`."""
    draw = encoder.draw(seed, erase=0.0)
    images = _read(encoder, source, draw.device)
    with inference():
        views, affine = draw(images, 0, 0)
        plan = _plan(model, views, affine)
        accuracy, chance = matching_accuracy(plan, affine, model.grid)
    return Bunch(
        **_by_pair(views, affine, plan),
        grid=model.grid,
        accuracy=float(accuracy),
        chance=float(chance),
    )


def match_images(encoder: FittedEncoder, model: OTCXRModel, *sources: ImageSource) -> Bunch:
    """Do the work of `OTCXRPretrainer.match_pairs`."""
    n, others = map(len, sources)
    if n != others:
        raise ValueError(f"X has {counted(n, 'image')} and Y has {others}: pass pairs")
    device = choose_device(encoder.device)
    images = torch.cat([_read(encoder, source, device) for source in sources])
    views = (images - encoder.mean) / encoder.std
    # Both views show the whole image, so that the marginals are uniform.
    affine = torch.eye(2, 3, device=device).expand(2 * n, 2, 3)
    with inference():
        plan = _plan(model, views, affine)
    return Bunch(**_by_pair(views, affine, plan), grid=model.grid)


def _read(encoder: FittedEncoder, source: ImageSource, device: torch.device) -> Tensor:
    """Read all images of a source, with a warning of values unlike those of `fit`."""
    rows = np.arange(len(source))
    pixels = source.read(rows, encoder.architecture["image_size"])
    images = torch.from_numpy(pixels).to(device)
    seen = Spreads(len(source))
    seen.note(rows, spread(images).cpu())
    seen.warn(source, encoder.mean, encoder.std, FITTED)
    return images


def _plan(model: OTCXRModel, views: Tensor, affine: Tensor) -> Tensor:
    put_on(views.device, model)
    plan = model.match(model.infuse(model.dense_tokens(views)), affine).plan
    if not plan.isfinite().all():
        raise NonFiniteLossError(
            "the cost of transport between the views of these images is not finite: check that "
            "their pixels are scaled like those of the training images"
        )
    return plan


def _by_pair(views: Tensor, affine: Tensor, plan: Tensor) -> dict[str, NDArray[np.float32]]:
    """Return the two views of each image side by side, and the plan between them."""
    return {
        "views": torch.stack(views[:, 0].chunk(2), 1).cpu().numpy(),
        "affine": torch.stack(affine.chunk(2), 1).cpu().numpy(),
        "plan": plan.cpu().numpy(),
    }
