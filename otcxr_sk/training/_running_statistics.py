"""Running statistics of batch norms in a short run."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def settling(model: nn.Module, batches: int) -> Iterator[None]:
    """Let batch norms take the mean over all batches until these are more than they remember.

    With torch's momentum of 0.1, the mean of 0 and variance of 1 that they start with would still
    have a weight of 0.43 after eight batches, and embeddings would be normalized by neither.

    Parameters
    ----------
    model : nn.Module
        In training mode.
    batches : int
        How many it was trained with before.
    """
    share = 1 / (batches + 1)
    usual = {
        module: module.momentum
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.momentum and module.momentum < share
    }
    # Torch would compile anew for every momentum.
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        usual = {}
    for norm in usual:
        norm.momentum = share
    try:
        yield
    finally:
        for norm, momentum in usual.items():
            norm.momentum = momentum
