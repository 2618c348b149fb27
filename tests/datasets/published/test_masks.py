import numpy as np

from otcxr_sk.datasets import LazyMasks


def test_masks_are_decoded_on_access():
    asked = []

    def decode(value):
        asked.append(value)
        return np.full((1, 2), value > 1)

    masks = LazyMasks(decode, [1, None, 2])
    part = masks[1:]
    assert (len(masks), len(part)) == (3, 2)
    assert part.available.tolist() == [False, True]
    assert asked == []
    assert part[-1].all()
    assert asked == [2]
    assert [mask is None for mask in masks] == [False, True, False]
