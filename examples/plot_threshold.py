"""
Calibrated probabilities and a decision threshold
=================================================

A classifier gives scores; a clinic needs probabilities that mean what they say, and a threshold
whose sensitivity and specificity are known. Both are chosen on training patients and judged on
others.
"""

import matplotlib.pyplot as plt
import sklearn
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import (
    GroupShuffleSplit,
    StratifiedGroupKFold,
    TunedThresholdClassifierCV,
)

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.evaluation import make_probe, operating_point

data = make_chest_phantoms(n_patients=300, image_size=64, random_state=0)
y = data.labels[:, data.label_names.index("effusion")]
patients = data.groups
split = GroupShuffleSplit(1, test_size=0.5, random_state=0)
train, test = next(split.split(y, groups=patients))

encoder = OTCXRPretrainer(**{**LAPTOP, "epochs": 4, "batch_size": 32}, random_state=0).fit(
    data.images[train]
)
Z = encoder.transform(data.images)

# %%
# Probabilities
# -------------
# A classifier with balanced classes takes half of all images to have an effusion, but three in ten
# do: its probabilities are too high. ``CalibratedClassifierCV`` corrects that by cross-validation.
# With metadata routing, the patients reach the folds.

by_patient = StratifiedGroupKFold(5)
balanced = make_probe().set_params(logisticregression__class_weight="balanced")
balanced.fit(Z[train], y[train])
with sklearn.config_context(enable_metadata_routing=True):
    calibrated = CalibratedClassifierCV(balanced, cv=by_patient)
    calibrated.fit(Z[train], y[train], groups=patients[train])

figure, ax = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
for name, model, color, marker in (
    ("balanced classes", balanced, "#d55e00", "s"),
    ("calibrated", calibrated, "#0072b2", "o"),
):
    probability = model.predict_proba(Z[test])[:, 1]
    loss = brier_score_loss(y[test], probability)
    CalibrationDisplay.from_predictions(
        y[test],
        probability,
        n_bins=6,
        strategy="quantile",
        name=f"{name}, Brier score {loss:.3f}",
        ax=ax,
        color=color,
        marker=marker,
    )
ax.set(xlabel="predicted probability", ylabel="share of images with an effusion")
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %%
# Points below the diagonal are probabilities that are too high. After calibration they are near it,
# and near three in ten, whatever the image: this classifier knows little, and now says so.
#
# A threshold
# -----------
# ``TunedThresholdClassifierCV`` chooses the threshold with the best balance of sensitivity and
# specificity, again in folds of training patients.

with sklearn.config_context(enable_metadata_routing=True):
    tuned = TunedThresholdClassifierCV(
        CalibratedClassifierCV(balanced, cv=by_patient), scoring="balanced_accuracy", cv=by_patient
    )
    tuned.fit(Z[train], y[train], groups=patients[train])
score = tuned.estimator_.predict_proba(Z[test])[:, 1]

# %%
# What it does to the test patients, with intervals by patient, beside the usual threshold of 0.5,
# which finds nobody: no effusion is that sure to this weak classifier.

print(
    "chosen:",
    operating_point(y[test], score, tuned.best_threshold_, patients[test], random_state=0),
)
print("usual: ", operating_point(y[test], score, 0.5, patients[test], random_state=0))
