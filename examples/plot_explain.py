"""
Where a score comes from
========================

An embedding is the mean of the encoder's last map over its places. With a linear classifier behind
it, a score is an intercept plus a sum over places, so what each place adds is known exactly.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.evaluation import deletion_curves, explain, make_probe
from otcxr_sk.plotting import ExplanationDisplay

data = make_chest_phantoms(n_patients=80, image_size=128, random_state=0)
effusion = data.labels[:, data.label_names.index("effusion")]
y = np.where(effusion, "effusion", "clear")
split = GroupShuffleSplit(1, test_size=0.5, random_state=0)
train, test = next(split.split(data.images, groups=data.groups))

# %%
# A Pipeline that predicts effusions. The last map of a ResNet has a place for 32 x 32 pixels, so
# 128 x 128 pixels give 4 x 4 places.

parameters = {**LAPTOP, "image_size": 128, "match_stride": 16, "epochs": 2, "batch_size": 32}
model = make_pipeline(OTCXRPretrainer(**parameters, random_state=0), make_probe())
model.fit(data.images[train], y[train])

# %%
# The parts add up to the score, up to rounding.

images = data.images[test]
found = explain(model, images)
total = found.intercept + found.contributions.sum(axis=(1, 2))
print(np.abs(total - model.decision_function(images)).max())

# %%
# Contributions to the scores of two patients with an effusion and one without. Red regions speak
# for an effusion, blue ones against it.

sick, well = test[effusion[test] == 1], test[effusion[test] == 0]
display = ExplanationDisplay.from_estimator(model, data.images[[*sick[[0, 2]], well[0]]])
plt.figure(display.figure_)
plt.show()

# %%
# Do these regions matter to the classifier? Regions are blurred step by step, in three orders,
# which all end in the same image, blurred as a whole. The score falls fastest where the regions
# that contribute most go first, and last where they go last: contributions are more than a picture.

curves = deletion_curves(model, data.images[sick], n_steps=4, random_state=0)
figure, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for name, color, style in (
    ("most", "#d55e00", "-"),
    ("random", "#000000", "--"),
    ("least", "#0072b2", ":"),
):
    order = "random order" if name == "random" else f"{name} contribution first"
    ax.plot(curves.removed, curves[name].mean(axis=1), style, color=color, label=order)
ax.set(xlabel="share of the regions that is blurred", ylabel="mean score of effusions")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %%
# A region contributes what its vector contributes, and a vector depends on what the encoder sees
# around it. A finding can therefore add to the score next to where it is. Nor is a region that
# matters a reason to trust the score: that of both patients with an effusion is below 0, so the
# classifier, trained on 80 X-rays, misses them.
