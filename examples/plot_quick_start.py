"""
Quick start
===========

Pre-train an encoder on chest X-rays without labels, embed all X-rays, and let a linear classifier
predict a finding in patients that neither of them has seen.
"""

import matplotlib.pyplot as plt
from sklearn.model_selection import GroupShuffleSplit

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.evaluation import compare, pixel_features
from otcxr_sk.plotting import ProbeDisplay

# %%
# Images, labels and patients
# ---------------------------
# The X-rays are synthetic: two of each patient, with labels for five findings. In place of an
# array, an encoder also takes a list of PNG, JPEG or DICOM files. Patients are split, never images,
# because two X-rays of one person are alike.

data = make_chest_phantoms(n_patients=300, image_size=64, random_state=0)
split = GroupShuffleSplit(1, test_size=0.5, random_state=0)
train, test = next(split.split(data.images, groups=data.groups))

figure, axes = plt.subplots(1, 4, figsize=(8, 2.4), layout="constrained")
for ax, row in zip(axes, range(0, 8, 2), strict=True):
    found = [name for name, label in zip(data.label_names, data.labels[row], strict=True) if label]
    ax.imshow(data.images[row], cmap="gray")
    ax.set_title("\n".join(found) or "no finding", fontsize="small")
    ax.set_axis_off()
plt.show()

# %%
# Pre-training
# ------------
# No label is used. ``LAPTOP`` holds parameters for small images on a CPU; here training is shorter,
# in small batches, so that few images make many steps. The embedding has one row per image.

encoder = OTCXRPretrainer(**{**LAPTOP, "epochs": 4, "batch_size": 32}, random_state=0)
encoder.fit(data.images[train])
embedding = encoder.transform(data.images)
print(embedding.shape)

# %%
# What the embedding is worth
# ---------------------------
# The same logistic regression is fitted on the embedding and on the pixels, each time on the
# training patients, and judged on the test patients.

effusion = data.labels[:, data.label_names.index("effusion")]
features = {"pixels": pixel_features(data.images), "otcxr": embedding}
task = {"train": train, "test": test}

figure, ax = plt.subplots(figsize=(4.2, 4.2), layout="constrained")
ProbeDisplay.from_features(features, effusion, data.groups, **task, ax=ax)
plt.show()

# %%
# Is the difference more than chance? ``compare`` draws test patients again and again, and gives an
# interval of the difference. This one includes 0: after four epochs on 300 X-rays, pixels do as
# well. Pre-training is for thousands of X-rays.

print(
    compare(
        features,
        effusion,
        data.groups,
        **task,
        fractions=[1.0],
        reference="pixels",
        random_state=0,
    )
)
