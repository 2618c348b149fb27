"""CV-SIM as a read-out: what one view must tell of the other."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from otcxr_sk.method._geometry import token_centers

# Waves that describe a place, from an eighth of a wave between the borders of a view to one that
# is shorter than a token.
_WAVES = 8

# Crops of very different sizes ask for places far outside a view. All are alike beyond this.
_FARTHEST = 3.0


class ReadOut(nn.Module):
    """Says what the other view shows at a place, from the tokens of one view's last map alone.

    A query is made of a place and of how large a token of the other view is. It attends to the
    tokens of the view, which know their own places; none comes from the other view, so there is
    nothing to copy. What is read then has to be in the map whose mean is the embedding.

    The paper (Gorade et al., WACV 2025) names a module that infuses the views with each other's
    semantics; this arrangement of it is ours.

    Parameters
    ----------
    channels : int
        Width C of the tokens that are read.
    target_channels : int
        Width of what is told.
    width : int, default=256
        Width of queries and keys, a multiple of `heads`.
    depth : int, default=1
        Number of blocks, of attention and an MLP, both residual.
    heads : int, default=8
    """

    def __init__(
        self, channels: int, target_channels: int, width: int = 256, depth: int = 1, heads: int = 8
    ) -> None:
        super().__init__()
        self.key = nn.Linear(channels, width)
        self.place = nn.Linear(4 * _WAVES, width)
        self.query = nn.Sequential(
            nn.Linear(4 * _WAVES + 2, width), nn.GELU(), nn.Linear(width, width)
        )
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.told = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, target_channels))

    def forward(self, values: Tensor, places: Tensor, asked: Tensor, sizes: Tensor) -> Tensor:
        """Tell what is at places.

        Parameters
        ----------
        values : Tensor of shape (B, N, C)
            Tokens of a view.
        places : Tensor of shape (B, N, 2)
            Their centers (x, y), in coordinates of the view.
        asked : Tensor of shape (B, M, 2)
            Places in the same coordinates, which may lie outside the view.
        sizes : Tensor of shape (B, M, 2)
            Logarithms of width and height, relative to those of the view.

        Returns
        -------
        told : Tensor of shape (B, M, `target_channels`)
        """
        keys = self.key(values) + self.place(waves(places))
        query = self.query(torch.cat([waves(asked), sizes], -1))
        for block in self.blocks:
            query = block(query, keys)
        return self.told(query)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_query, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        query = query + self.attention(self.norm_query(query), keys, keys, need_weights=False)[0]
        return query + self.mlp(self.norm_mlp(query))


def waves(places: Tensor) -> Tensor:
    """Describe places (..., 2) by sines and cosines (..., 32), each wave half as long as the last.

    Places within 4 of the center of a view differ in the longest wave.
    """
    lengths = torch.arange(_WAVES, device=places.device, dtype=places.dtype)
    angles = places[..., None] * (math.pi / 4 * lengths.exp2())
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


def asked_places(affine: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return where the tokens of `t` lie in view `s`, and how large they are there.

    Parameters
    ----------
    affine : Tensor of shape (2 * B, 2, 3)
        Maps of all first views `s`, then of all second views `t`, as from `Views`.
    grid : tuple of int
        Rows and columns of the map of `t`, N = rows * columns.

    Returns
    -------
    asked : Tensor of shape (B, N, 2)
        Centers (x, y) in coordinates of `s`, within 3.
    sizes : Tensor of shape (B, N, 2)
        Logarithms of the width and height of `t`, relative to those of `s`.
    """
    s, t = affine.chunk(2)
    scale_s, scale_t = (view.diagonal(dim1=1, dim2=2)[:, None] for view in (s, t))
    asked = (token_centers(t, grid) - s[:, None, :, 2]) / scale_s
    sizes = (scale_t / scale_s).abs().log().expand_as(asked)
    return asked.clamp(-_FARTHEST, _FARTHEST), sizes


def own_places(grid: tuple[int, int], like: Tensor) -> Tensor:
    """Return the centers (1, N, 2) of the tokens of a view in its own coordinates."""
    whole = torch.eye(2, 3, device=like.device, dtype=like.dtype)
    return token_centers(whole[None], grid)


def reading_error(told: Tensor, shown: Tensor) -> Tensor:
    """Return how far what was told of each image is from what its other view shows.

    Parameters
    ----------
    told : Tensor of shape (B, N, C)
        From `ReadOut`.
    shown : Tensor of shape (B, N, C)
        Tokens of the other view. They get no gradient.

    Returns
    -------
    error : Tensor of shape (B,)
        Mean over tokens of the squared distance per channel, in [0, 4]: twice one minus the
        correlation, over channels, of what is told and of how the token differs from the mean of
        its view.
    """
    shown = shown.detach()
    shown = shown - shown.mean(1, keepdim=True)
    told, shown = (layer_norm(each, each.shape[-1:]) for each in (told, shown))
    return (told - shown).square().mean((1, 2))


def token_spread(shown: Tensor) -> Tensor:
    """Return the standard deviation of the tokens of each image, relative to their size.

    What is told of tokens that are all the same teaches nothing.

    Parameters
    ----------
    shown : Tensor of shape (B, N, C)

    Returns
    -------
    spread : Tensor of shape (B,)
        In [0, 1], without gradient; 0 if all tokens of the image are the same vector.
    """
    shown = shown.detach()
    deviation = (shown - shown.mean(1, keepdim=True)).square().mean((1, 2)).sqrt()
    size = shown.square().mean((1, 2)).sqrt()
    return deviation / size.clamp(min=torch.finfo(size.dtype).tiny)
