"""What a page is about: an encoder, and the images that it could embed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images import Content, ImageSource, Selection
from otcxr_sk.plotting.reporting._task import Labels

# Images of which pairs are compared, or points drawn.
_MOST = 5000


@dataclass(frozen=True)
class Study:
    """A fitted encoder and the images that it could embed."""

    encoder: Any
    content: Content
    images: ImageSource
    Z: NDArray[np.float32]
    groups: NDArray[Any]
    labels: Labels | None
    seen: NDArray[np.bool_] | None
    unusable: int
    seed: int

    def some(self, rows: NDArray[np.intp]) -> ImageSource:
        """Return images of a few rows."""
        return Selection(self.images, rows)

    def of_patients(self, most: int) -> NDArray[np.intp]:
        """Draw a row of each of some patients."""
        order = np.random.default_rng(self.seed).permutation(len(self.groups))
        first = np.unique(self.groups[order], return_index=True)[1]
        return order[np.sort(first)[:most]]

    def sample(self) -> NDArray[np.intp]:
        """Draw rows that are few enough to compare or draw all of them."""
        order = np.random.default_rng(self.seed).permutation(len(self.groups))
        return np.sort(order[:_MOST])
