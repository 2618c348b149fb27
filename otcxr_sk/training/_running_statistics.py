"""Running statistics of batch norms in a short run."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def unsettled(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms that have seen fewer batches than they remember.

    Those that come with statistics of unknown batches, as some files of weights do, are none.
    """
    # Torch would compile anew for every momentum.
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        return []
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.momentum
        and module.num_batches_tracked is not None
        and module.num_batches_tracked < 1 / module.momentum
        and (module.num_batches_tracked > 0 or _is_new(module))
    ]


def _is_new(norm: _BatchNorm) -> bool:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return not norm.running_mean.any() and bool((norm.running_var == 1).all())


@contextmanager
def settling(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let batch norms take the mean over all batches until these are more than they remember.

    With torch's momentum of 0.1, the mean of 0 and variance of 1 that they start with would still
    have a weight of 0.43 after eight batches, and embeddings would be normalized by neither.

    Parameters
    ----------
    norms : list of batch norms
        As from `unsettled`, before any batch. Those that have settled are removed.
    """
    usual: dict[_BatchNorm, float] = {}
    for norm in norms:
        assert norm.num_batches_tracked is not None
        share = 1 / (int(norm.num_batches_tracked) + 1)
        if norm.momentum and norm.momentum < share:
            usual[norm] = norm.momentum
            norm.momentum = share
    norms[:] = usual
    try:
        yield
    finally:
        for norm, momentum in usual.items():
            norm.momentum = momentum
