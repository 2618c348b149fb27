"""Near duplicates side by side."""

from typing import Any, Self

from otcxr_sk._quote import brief
from otcxr_sk.datasets import NearDuplicates, find_near_duplicates
from otcxr_sk.plotting._display import Display, new_figure
from otcxr_sk.plotting._images import SIZE, show_image

_INCHES = 2.2


class NearDuplicatesDisplay(Display):
    """Pairs of images that look the same, the most similar first.

    Above each image stand its row, patient and part of the split; above each pair, the number of
    bits in which their hashes differ.

    Parameters
    ----------
    duplicates : NearDuplicates
        Result of `find_near_duplicates`. To see pairs from different patients only, pass
        ``found[found.across_groups]``.

    See Also
    --------
    otcxr_sk.datasets.find_near_duplicates : The function that `from_source` calls.

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
        """Find near duplicates and draw the most similar pairs.

        Parameters
        ----------
        source, groups
            As for `find_near_duplicates`.
        **options
            Further parameters of `find_near_duplicates`.

        Returns
        -------
        display : NearDuplicatesDisplay
            The new display, drawn.
        """
        return cls(find_near_duplicates(source, groups, **options)).plot()

    def plot(self, *, most: int = 6, columns: int = 2) -> Self:
        """Draw the figure.

        Parameters
        ----------
        most : int, default=6
            Number of pairs to draw.
        columns : int, default=2
            Number of pairs in a row.

        Returns
        -------
        display : NearDuplicatesDisplay
            The same display, with the attribute `figure_` (matplotlib's Figure).

        Raises
        ------
        ValueError
            There are no pairs.
        """
        found = self.duplicates[:most]
        if not len(found):
            raise ValueError("there are no pairs to draw")
        columns = min(columns, len(found))
        rows = -(-len(found) // columns)
        self.figure_ = new_figure(2 * _INCHES * columns, (_INCHES + 0.5) * rows)
        cells = self.figure_.subfigures(rows, columns, squeeze=False).flat
        for index, cell in enumerate(cells[: len(found)]):
            self._plot_pair(cell, index)
        return self

    def _plot_pair(self, cell: Any, index: int) -> None:
        found = self.duplicates
        pair = found.pairs[index]
        images = found.source.read(pair, SIZE)[:, 0]
        bits = f"hashes differ in {found.distance[index]} bits"
        cell.suptitle("identical" if found.exact[index] else bits, fontsize=8)
        facts = {"row ": range(len(found.source)), "patient ": found.groups, "": found.split}
        for ax, row, image in zip(cell.subplots(1, 2), pair, images, strict=True):
            show_image(ax, image)
            lines = [
                f"{name}{brief(values[row])}"
                for name, values in facts.items()
                if values is not None
            ]
            ax.set_title("\n".join(lines), fontsize=7, parse_math=False)
