"""Pictures that are there twice, side by side."""

from __future__ import annotations

from typing import Any, Self

from otcxr_sk.datasets import NearDuplicates, find_near_duplicates
from otcxr_sk.plotting._display import Display

_SIZE = 192
_INCHES = 2.2


class NearDuplicatesDisplay(Display):
    """Pairs of pictures that look the same, side by side, the most alike first.

    Above each picture its row, patient and part; between them, the bits that differ.

    Parameters
    ----------
    duplicates : NearDuplicates
        As from `find_near_duplicates`; ``found[found.across_groups]`` are those of two patients.

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        Set by `plot`.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> from otcxr_sk.plotting import NearDuplicatesDisplay
    >>> images = make_chest_phantoms(3, image_size=64, random_state=0).images
    >>> display = NearDuplicatesDisplay.from_source(np.concatenate([images, images[:2]]))
    >>> len(display.figure_.axes)
    4
    """

    def __init__(self, duplicates: NearDuplicates) -> None:
        self.duplicates = duplicates

    @classmethod
    def from_source(cls, source: Any, groups: Any = None, **options: Any) -> Self:
        """Find near duplicates and plot those most alike.

        Parameters
        ----------
        source, groups
            As for `find_near_duplicates`.
        **options
            Further parameters of `find_near_duplicates`.

        Returns
        -------
        display : NearDuplicatesDisplay
        """
        return cls(find_near_duplicates(source, groups, **options)).plot()

    def plot(self, *, most: int = 6, columns: int = 2) -> Self:
        """Draw the figure.

        Parameters
        ----------
        most : int, default=6
            Pairs to draw.
        columns : int, default=2
            Pairs beside each other.

        Returns
        -------
        display : the same display
        """
        self.require_matplotlib()
        from matplotlib.figure import Figure

        found = self.duplicates[:most]
        if not len(found):
            raise ValueError("there are no pairs to draw")
        columns = min(columns, len(found))
        rows = -(-len(found) // columns)
        figure = Figure(
            figsize=(2 * _INCHES * columns, (_INCHES + 0.5) * rows), layout="constrained"
        )
        for index, cell in enumerate(figure.subfigures(rows, columns, squeeze=False).flat):
            if index < len(found):
                self._plot_pair(cell, index)
        self.figure_ = figure
        return self

    def _plot_pair(self, cell: Any, index: int) -> None:
        found = self.duplicates
        pair = found.pairs[index]
        pictures = found.source.read(pair, _SIZE)[:, 0]
        same = "the same" if found.exact[index] else f"{found.distance[index]} bits differ"
        cell.suptitle(same, fontsize=8)
        for ax, row, picture in zip(cell.subplots(1, 2), pair, pictures, strict=True):
            ax.imshow(picture, cmap="gray")
            ax.set_axis_off()
            of = [str(values[row]) for values in (found.groups, found.split) if values is not None]
            ax.set_title("\n".join([f"row {row}", *of]), fontsize=7)
