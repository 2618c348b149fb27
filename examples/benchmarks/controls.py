"""Controls of the read-out, for a `with` statement around `fit`: what it can no longer learn from.

Each replaces a function of the library, which is as it was afterwards.
"""

from unittest.mock import patch

import torch

from otcxr_sk.method import _model
from otcxr_sk.method._read_out import ReadOut, reading_error


def shuffled(shown, generator):
    """Return the tokens (B, N, C) of each image in a random order of its own."""
    order = torch.rand(shown.shape[:2], generator=generator).argsort(1).to(shown.device)
    return shown.gather(1, order[..., None].expand_as(shown))


def averaged(values):
    """Return the mean of the tokens (B, N, C) of each image in the place of all of them."""
    return values.mean(1, keepdim=True).expand_as(values)


def places_shuffled():
    """Have the read-out tell tokens of the other view of places where they are not."""
    # Of its own, so that everything else is drawn as without this.
    generator = torch.Generator().manual_seed(0)
    return patch.object(
        _model,
        "reading_error",
        lambda told, shown: reading_error(told, shuffled(shown, generator)),
    )


def mean_only():
    """Let the read-out see nothing of a view but the mean of its tokens."""
    read = ReadOut.forward
    return patch.object(
        ReadOut, "forward", lambda self, values, *rest: read(self, averaged(values), *rest)
    )
