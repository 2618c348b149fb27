"""
With few labels
===============

Labels are expensive, X-rays are not. An encoder learns from all X-rays; how many labeled patients
does a classifier on its embedding need, and how many does one on the pixels?
"""

import matplotlib.pyplot as plt
from sklearn.model_selection import GroupShuffleSplit

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.evaluation import compare, pixel_features
from otcxr_sk.plotting import ComparisonDisplay, LabelEfficiencyDisplay

data = make_chest_phantoms(n_patients=300, image_size=64, random_state=0)
effusion = data.labels[:, data.label_names.index("effusion")]
split = GroupShuffleSplit(1, test_size=0.5, random_state=0)
train, test = next(split.split(data.images, groups=data.groups))

# %%
# Three embeddings of the same images: of an encoder that was pre-trained without labels, of the
# same encoder with its random start, and the pixels themselves.

trained = OTCXRPretrainer(**{**LAPTOP, "epochs": 4, "batch_size": 32}, random_state=0).fit(
    data.images[train]
)
untrained = OTCXRPretrainer(**{**LAPTOP, "epochs": 0}, random_state=0).fit(data.images[train])
features = {
    "pixels": pixel_features(data.images),
    "untrained": untrained.transform(data.images),
    "otcxr": trained.transform(data.images),
}

# %%
# For each share of the training patients, ten sets of them are drawn, the same for all embeddings.
# The band is the standard deviation over these draws. With all patients there is nothing to draw.

task = {"y": effusion, "groups": data.groups, "train": train, "test": test}
few = {"fractions": [0.1, 0.3, 1.0], "random_state": 0}

figure, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
LabelEfficiencyDisplay.from_features(features, **task, **few, ax=ax)
plt.show()

# %%
# Bands tell how much it matters who was labeled. Whether one embedding is better than another, or
# luckier with these test patients, is another question: ``compare`` draws test patients again and
# again, and gives intervals of the difference from pixels. Here all of them include 0. An encoder
# that saw 300 X-rays four times is worth no more than pixels; with thousands of X-rays, look again.

comparison = compare(features, **task, **few, reference="pixels")
print(comparison)
figure, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
ComparisonDisplay(comparison).plot(ax)
plt.show()
