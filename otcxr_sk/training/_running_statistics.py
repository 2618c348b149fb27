"""Running statistics of batch norms in a short run."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def unsettled(model: nn.Module) -> dict[_BatchNorm, int]:
    """Return the batch norms that have seen fewer batches than they remember, and how many.

    Those that come with statistics of unknown batches, as some files of weights do, are none.
    """
    # Torch would compile anew for every momentum.
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        return {}
    found = {}
    for norm in model.modules():
        if (
            not isinstance(norm, _BatchNorm)
            or not norm.momentum
            or norm.num_batches_tracked is None
        ):
            continue
        batches = int(norm.num_batches_tracked)
        if batches < 1 / norm.momentum and (batches > 0 or _is_new(norm)):
            found[norm] = batches
    return found


def _is_new(norm: _BatchNorm) -> bool:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return not norm.running_mean.any() and bool((norm.running_var == 1).all())


@contextmanager
def settling(batches: dict[_BatchNorm, int]) -> Iterator[None]:
    """Let batch norms take the mean over all batches until these are more than they remember.

    With torch's momentum of 0.1, the mean of 0 and variance of 1 that they start with would still
    have a weight of 0.43 after eight batches, and embeddings would be normalized by neither.

    Parameters
    ----------
    batches : dict of batch norm to int
        As from `unsettled`, before any batch. It counts this one, so that no device is asked for
        the number.
    """
    usual: dict[_BatchNorm, float] = {}
    for norm in batches:
        share = 1 / (batches[norm] + 1)
        batches[norm] += 1
        if norm.momentum and norm.momentum < share:
            usual[norm] = norm.momentum
            norm.momentum = share
    try:
        yield
    finally:
        for norm, momentum in usual.items():
            norm.momentum = momentum
