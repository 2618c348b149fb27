"""
Find duplicates and leaks
=========================

A test set is worth nothing if its patients, or copies of their images, are in training. Two checks:
``check_leakage`` trusts patient ids, and ``find_near_duplicates`` looks at the images.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from otcxr_sk.datasets import (
    LeakageError,
    check_leakage,
    find_near_duplicates,
    make_chest_phantoms,
)
from otcxr_sk.plotting import NearDuplicatesDisplay

data = make_chest_phantoms(n_patients=200, image_size=64, random_state=0)
images, patients = data.images, data.groups.copy()

# %%
# A split of images
# -----------------
# Two images of one patient are alike, so a split of images lets a classifier recognize patients.
# The check tells of it, and lets a split of patients pass.

rows = np.arange(len(images))
try:
    check_leakage(patients, [train_test_split(rows, random_state=0)])
except LeakageError as error:
    print(error)

split = GroupShuffleSplit(1, test_size=0.25, random_state=0)
train, test = next(split.split(rows, groups=patients))
check_leakage(patients, [(train, test)])

# %%
# Copies under other names
# ------------------------
# Ids are not always right. Here three training images come back among the test images under ids of
# their own: as they are, darker, and at half of the size and back.

darker = 255 * (images[train[10]] / 255) ** 1.3
coarse = images[train[20]].reshape(32, 2, 32, 2).mean((1, 3)).repeat(2, 0).repeat(2, 1)
images = np.concatenate([images, [images[train[0]], darker, coarse]]).astype(np.uint8)
patients = np.concatenate([patients, [900, 901, 902]])
part = np.where(np.isin(np.arange(len(images)), train), "train", "test")
check_leakage(patients, part)  # finds nothing

# %%
# The images tell.

found = find_near_duplicates(images, patients, split=part)
print(found)
across = found[found.across_groups]
display = NearDuplicatesDisplay(across).plot()
plt.figure(display.figure_)
plt.show()

# %%
# What to do about it
# -------------------
# Patients who share an image become one, and these groups are split. Copies that were cropped,
# shifted or turned are not found in this way.

groups = found.merged_groups()
train, test = next(split.split(images, groups=groups))
check_leakage(groups, [(train, test)])
print(len(np.unique(patients)), "patients,", len(np.unique(groups)), "after merging")
