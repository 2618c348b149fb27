"""
Segment lungs from a few masks
==============================

Masks take long to draw. An encoder that was pre-trained on all X-rays, without masks, is trained on
with the masks of a few, and draws those of new patients. So is one with a random start, to see
what pre-training was worth.
"""

import matplotlib.pyplot as plt

from otcxr_sk import LAPTOP, OTCXRPretrainer, OTCXRSegmenter
from otcxr_sk.datasets import make_chest_phantoms

data = make_chest_phantoms(n_patients=150, image_size=64, random_state=0)
new = make_chest_phantoms(n_patients=30, image_size=64, random_state=1)

# %%
# The encoder sees the X-rays of 150 patients, and the segmenter the masks of the first eight of
# them. ``OTCXRSegmenter`` puts a small feature pyramid on the maps of the encoder, and trains both.
# With ``epochs=0``, the second encoder is not trained before.

segmenters, dice = {}, {}
for name, epochs in (("pre-trained", 4), ("random start", 0)):
    encoder = OTCXRPretrainer(**{**LAPTOP, "epochs": epochs, "batch_size": 32}, random_state=0)
    encoder.fit(data.images)
    segmenter = OTCXRSegmenter(encoder, epochs=30, random_state=0)
    segmenter.fit(data.images[:16], data.lung_masks[:16])
    segmenters[name] = segmenter
    dice[name] = segmenter.score(new.images, new.lung_masks)
    print(f"{name}: mean Dice coefficient {dice[name]:.3f} of {len(new.images)} new X-rays")

# %%
# Masks of four new patients. The true border is orange, the one that was drawn is blue and dashed.
# Both starts do equally well: lungs are so alike that the masks of eight patients are enough, and
# pre-training has nothing to add. What it adds where lesions are to be found is measured in the
# user guide.

figure, axes = plt.subplots(2, 4, figsize=(8, 4.4), layout="constrained")
for row, (name, segmenter) in zip(axes, segmenters.items(), strict=True):
    masks = segmenter.predict(new.images[:8:2])
    for ax, image, true, mask in zip(
        row, new.images[:8:2], new.lung_masks[:8:2], masks, strict=True
    ):
        ax.imshow(image, cmap="gray")
        ax.contour(true, [0.5], colors="#e69f00", linewidths=1.5)
        ax.contour(mask, [0.5], colors="#56b4e9", linewidths=1.5, linestyles="--")
        ax.set_axis_off()
    row[0].set_title(f"{name}, Dice {dice[name]:.2f}", loc="left", fontsize="medium")
plt.show()
