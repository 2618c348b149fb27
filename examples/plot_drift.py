"""
Has the hospital changed?
=========================

An encoder is in use, and one day the images are others: a new device, another exposure. Two
questions: do the new images differ as a whole, and is a single image unlike those that the encoder
knows? Neither needs labels.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.evaluation import Familiarity, domain_shift

known = make_chest_phantoms(n_patients=150, image_size=64, random_state=0)
encoder = OTCXRPretrainer(**{**LAPTOP, "epochs": 4, "batch_size": 32}, random_state=0).fit(
    known.images
)
Z = encoder.transform(known.images)

# %%
# New images
# ----------
# New patients, once as before, and once from a device whose images are softer and have less
# contrast. A few are inverted by mistake.

new = make_chest_phantoms(n_patients=60, image_size=64, random_state=1)
soft = gaussian_filter(new.images.astype(float), (0, 1, 1))
arrived = {
    "as before": new.images,
    "new device": np.uint8(128 + 0.7 * (soft - 128)),
    "inverted": 255 - new.images,
}
embedded = {name: encoder.transform(images) for name, images in arrived.items()}

figure, axes = plt.subplots(1, 3, figsize=(6.5, 2.5), layout="constrained")
for ax, (name, images) in zip(axes, arrived.items(), strict=True):
    ax.imshow(images[0], cmap="gray", vmin=0, vmax=255)
    ax.set_title(name, fontsize="medium")
    ax.set_axis_off()
plt.show()

# %%
# The collection as a whole
# -------------------------
# ``domain_shift`` lets a classifier tell the new embeddings from the known ones, and judges it on
# patients that it was not fitted on. An AUC of 0.5 is chance.

for name in ("as before", "new device"):
    patients = [f"new {patient}" for patient in new.groups]
    old = [f"old {patient}" for patient in known.groups]
    print(f"{name}: {domain_shift(Z, embedded[name], old, patients, random_state=0)}")

# %%
# Single images
# -------------
# ``Familiarity`` tells how near an image is to those that the encoder was trained on. Its threshold
# is set on these alone, so that about one new image of the same kind in twenty falls below it.

familiar = Familiarity(false_alarms=0.05).fit(Z, groups=known.groups)
figure, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
for (name, new_Z), color, style in zip(
    embedded.items(), ("#0072b2", "#d55e00", "#000000"), ("-", "--", ":"), strict=True
):
    score = familiar.score_samples(new_Z)
    unfamiliar = (familiar.predict(new_Z) == -1).mean()
    ax.ecdf(score, color=color, linestyle=style, label=f"{name}: {unfamiliar:.0%} unfamiliar")
ax.axvline(familiar.offset_, color="0.6", linewidth=1, label="threshold")
ax.set(xlabel="familiarity", ylabel="share of images below")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %%
# A shift is no error of the model. It says that the old test set no longer speaks for the new
# images: label some of them, and judge again.
