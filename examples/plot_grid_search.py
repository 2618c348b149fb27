"""
A Pipeline and a grid search, patients kept apart
=================================================

The encoder is a transformer, so a Pipeline can end in any classifier, and a grid search can choose
the parameters of both. Two things need care: a patient must not be in both the training and the
validation part of a fold, and the encoder should not be trained again for every classifier.
"""

from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupShuffleSplit, StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms

data = make_chest_phantoms(n_patients=120, image_size=64, random_state=0)
enlarged = data.labels[:, data.label_names.index("cardiomegaly")]
split = GroupShuffleSplit(1, test_size=0.4, random_state=0)
train, test = next(split.split(data.images, groups=data.groups))

# %%
# ``StratifiedGroupKFold`` keeps the images of a patient together. In each fold the encoder is
# pre-trained on the training images of that fold alone, so no validation image is seen by any part
# of the Pipeline. ``memory`` keeps fitted encoders: the ten candidates below share two of them per
# fold.

with TemporaryDirectory() as folder:
    model = Pipeline(
        [
            ("encoder", OTCXRPretrainer(**{**LAPTOP, "batch_size": 32}, random_state=0)),
            ("scaler", StandardScaler()),
            ("classifier", LogisticRegression(max_iter=2000)),
        ],
        memory=folder,
    )
    search = GridSearchCV(
        model,
        {"encoder__epochs": [2, 4], "classifier__C": [1e-4, 1e-3, 1e-2, 1e-1, 1]},
        cv=StratifiedGroupKFold(2),
        scoring="roc_auc",
    )
    search.fit(data.images[train], enlarged[train], groups=data.groups[train])
    auc = search.score(data.images[test], enlarged[test])

print(search.best_params_)
print(f"AUC on validation folds {search.best_score_:.3f}, on test patients {auc:.3f}")

# %%
# The AUC of every candidate: the mean of two folds, and their range. As a rule, the best of many
# scores flatters, so report that of the test patients, who had no part in the choice. Here it is
# the higher one: the encoder that is judged last learned from all training patients, those in folds
# from half of them.

results = search.cv_results_
figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for epochs, color in ((2, "#0072b2"), (4, "#d55e00")):
    rows = results["param_encoder__epochs"] == epochs
    C = results["param_classifier__C"][rows].astype(float)
    folds = [results[f"split{fold}_test_score"][rows] for fold in range(2)]
    ax.fill_between(C, *folds, color=color, alpha=0.15, linewidth=0)
    ax.plot(C, results["mean_test_score"][rows], "o-", color=color, label=f"epochs={epochs}")
ax.plot(
    search.best_params_["classifier__C"], auc, "k*", markersize=12, label="chosen, test patients"
)
ax.set(xscale="log", xlabel="C of the logistic regression", ylabel="AUC")
ax.grid(axis="y", color="0.9")
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
