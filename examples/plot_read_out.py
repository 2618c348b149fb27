"""
What CV-SIM has to read out
===========================

Two views of one X-ray. From the first, parts of which are hidden, and from nothing else, the
encoder's last map has to tell what the second shows: at every place, hidden or not, within the
first view or beyond its border. Here one place is asked for.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import ConnectionPatch, Polygon, Rectangle

from otcxr_sk import Views
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.method import token_centers

SIZE, LAST, MATCHED = 224, (7, 7), (14, 14)
FIRST, SECOND = "#d55e00", "#0072b2"
ASKED = 12 * 14 + 2  # a token of the second view, which shows a place that the first view hides

image = torch.from_numpy(make_chest_phantoms(1, image_size=SIZE, random_state=4).images[:1]).float()
views, affine = Views(crop_scale=(0.4, 0.6))(image[None] / 255, torch.Generator().manual_seed(11))
in_image = token_centers(affine, MATCHED)[1, ASKED]
in_first = (in_image - affine[0, :, 2]) / affine[0].diagonal()
in_second = (in_image - affine[1, :, 2]) / affine[1].diagonal()


def pixels(places):
    """Turn coordinates in [-1, 1] into those of the pixels."""
    return (places + 1) / 2 * SIZE


def frame(ax, place, size, color):
    """Frame a token of some size, in pixels, around its center."""
    corner = (pixels(place) - size / 2).tolist()
    ax.add_patch(Rectangle(corner, *size.tolist(), fill=False, color=color, linewidth=2))


# %%
# Both views are cut at known coordinates, so the token of the second view has a place in the first.

figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.9), layout="constrained")
for ax, pixels_of, title in zip(
    axes,
    (image[0], views[0, 0], views[1, 0]),
    ("an X-ray and two views of it", "first view: is read", "second view: what has to be told"),
    strict=True,
):
    ax.imshow(pixels_of.numpy(), cmap="gray", extent=(0, SIZE, SIZE, 0))
    ax.set_title(title, fontsize="medium")
    ax.set_axis_off()

corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
token = SIZE / torch.tensor(MATCHED[::-1])
for place, color in ((0, FIRST), (1, SECOND)):
    border = corners * affine[place].diagonal() + affine[place, :, 2]
    axes[0].add_patch(Polygon(pixels(border).tolist(), fill=False, color=color, linewidth=2))
    axes[1 + place].add_patch(Rectangle((0, 0), SIZE, SIZE, fill=False, color=color, linewidth=4))
frame(axes[0], in_image, token * affine[1].diagonal(), SECOND)
frame(axes[1], in_first, token * affine[1].diagonal() / affine[0].diagonal(), SECOND)
frame(axes[2], in_second, token, SECOND)

# %%
# A query, made of the place and of how large the token is, attends to the tokens of the last map.

tokens = pixels(token_centers(torch.eye(2, 3)[None], LAST)[0])
for center in tokens.tolist():
    axes[1].plot(*zip(center, pixels(in_first).tolist(), strict=True), color=FIRST, linewidth=0.4)
axes[1].plot(*tokens.T.tolist(), "o", color=FIRST, markersize=3)
figure.add_artist(
    ConnectionPatch(
        pixels(in_first).tolist(),
        pixels(in_second).tolist(),
        "data",
        "data",
        axesA=axes[1],
        axesB=axes[2],
        arrowstyle="->",
        color=SECOND,
        linewidth=2,
        shrinkA=12,
        shrinkB=12,
    )
)
plt.show()
