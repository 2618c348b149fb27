"""Cross-Viewpoint Semantics Infusion Module (CV-SIM)."""

from torch import Tensor, nn


class CVSIM(nn.Module):
    """Blocks in which the tokens of each view take in what the other view shows.

    The paper (Gorade et al., WACV 2025) names the module and its purpose; the layers are ours:
    pre-norm blocks of self-attention within a view, cross-attention to the other view and an
    MLP, all residual. Both directions share the weights, so swapping the views swaps the
    outputs, and permuting the tokens permutes them.

    Parameters
    ----------
    dim : int
        Width D of the tokens, a multiple of `heads`.
    depth : int
        Number of blocks; 0 is the identity.
    heads : int, default=8
        Number of attention heads.
    """

    def __init__(self, dim: int, depth: int, heads: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(dim, heads) for _ in range(depth))

    def forward(self, q: Tensor) -> Tensor:
        """Infuse the tokens (2, B, N, D) of both views into each other; the shape is kept."""
        for block in self.blocks:
            # Both directions at once.
            q = block(q.flatten(0, 1), q.flip(0).flatten(0, 1)).view_as(q)
        return q


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm_self, self.norm_query, self.norm_other, self.norm_mlp = (
            nn.LayerNorm(dim) for _ in range(4)
        )
        self.self_attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        x = self.norm_self(own)
        own = own + self.self_attention(x, x, x, need_weights=False)[0]
        x, y = self.norm_query(own), self.norm_other(other)
        own = own + self.cross_attention(x, y, y, need_weights=False)[0]
        return own + self.mlp(self.norm_mlp(own))
