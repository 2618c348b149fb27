"""Images that cannot be used, and how they are told of."""

from collections.abc import Sequence
from typing import NamedTuple

_NAMED = 20


class Unusable(NamedTuple):
    """An image that cannot be used."""

    row: int
    file: str | None
    error: ValueError

    @property
    def reason(self) -> str:
        """What is wrong with it."""
        return str(self.error)


def listing(problems: Sequence[Unusable], n_images: int) -> str:
    """Count the images that cannot be used among `n_images`, and name the first of them."""
    more = len(problems) - _NAMED
    named = [problem.reason for problem in problems[:_NAMED]]
    return "\n  ".join(
        [
            f"{len(problems)} of {n_images} images cannot be used:",
            *named,
            *([f"and {more} more"] * (more > 0)),
        ]
    )
