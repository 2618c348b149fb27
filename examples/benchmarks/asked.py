"""What a device is asked for: functions of ATen, and numbers that are waited for.

On the "meta" device tensors have no numbers, so that any machine can count there what a GPU would
be asked for, and whatever would wait for a number is an error.
"""

from collections import Counter
from contextlib import nullcontext
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")

# They make another view of the same numbers, or room for some.
FREE = {"detach", "_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty"}


class Asked(TorchDispatchMode):
    """Counts what a device is asked for, and how often a number is waited for.

    What is counted are the functions of ATen that make or change a tensor there; a GPU is asked for
    each.
    """

    def __init__(self, device=META):
        super().__init__()
        self.device, self.work, self.waits = device, Counter(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        is_view = not func._schema.is_mutable and any(
            argument.alias_info is not None for argument in func._schema.arguments
        )
        # Some that change tensors return nothing.
        tensors = tree_leaves(args if made is None else made)
        there = any(isinstance(one, torch.Tensor) and one.device == self.device for one in tensors)
        self.waits += name == "_local_scalar_dense"
        if there and not is_view and name not in FREE:
            self.work[name] += 1
        return made

    @property
    def total(self):
        return self.work.total()


def no_autocast():
    """Switch autocast off, which does not know the "meta" device, in a `with` statement."""
    return patch.object(torch, "autocast", lambda *_, **__: nullcontext())
