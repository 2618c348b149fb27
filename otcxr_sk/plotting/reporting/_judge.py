"""The parts of a page that need labels."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve
from sklearn.pipeline import make_pipeline

from otcxr_sk._warning import keeping_filters
from otcxr_sk.evaluation import (
    Comparison,
    compare,
    explain,
    few_labels,
    make_probe,
    operating_point,
    pixel_features,
)
from otcxr_sk.plotting._differences import ComparisonDisplay
from otcxr_sk.plotting._display import color_of, new_figure, percent
from otcxr_sk.plotting._explanation import ExplanationDisplay
from otcxr_sk.plotting._images import as_seen
from otcxr_sk.plotting.reporting._page import (
    Part,
    Picture,
    Section,
    Table,
    Text,
    share,
    signed,
)
from otcxr_sk.plotting.reporting._study import Study
from otcxr_sk.plotting.reporting._task import FOLDS, LEAST, Prediction, Task, make_task, predict

_FRACTIONS, _DRAWS = (0.01, 0.1, 1.0), 5
_SENSITIVE = 0.9
# Findings with a plot of probabilities, images to a point of it, and findings that are explained.
_PLOTTED, _IN_A_POINT, _EXPLAINED = 6, 20, 3

_LEFT_OUT = "Label efficiency, calibration, operating points and explanations are left out."


def judge(study: Study) -> tuple[list[tuple[str, str, str]], list[Section]]:
    """Return more numbers of the summary, and the sections."""
    if study.labels is None:
        return [], [_without(f"No labels were given. {_LEFT_OUT}")]
    task = make_task(study.labels, study.groups, study.seen, study.seed)
    if task is None:
        return [], [
            _without(
                f"No label has two classes of at least {LEAST} patients each, in training and in "
                f"test. {_LEFT_OUT}"
            )
        ]
    predictions = predict(task, study.Z)
    numbers, efficiency = _efficiency(study, task)
    return numbers, [
        Section("split", "Who was judged", _split(study, task)),
        Section("labels", "How many labels it takes", efficiency),
        Section("calibration", "Can probabilities be trusted?", _calibration(predictions)),
        Section("thresholds", "Operating points", _thresholds(study, predictions)),
        Section("explanations", "Where scores come from", _explanations(study, task)),
    ]


def _without(why: str) -> Section:
    return Section("labels", "What needs labels", [Text(why)])


def _split(study: Study, task: Task) -> list[Part]:
    groups = study.groups
    rows = [
        [name, *(f"{len(each):,}" for each in (part, np.unique(groups[part])))]
        for name, part in (("training", task.train), ("test", task.test))
    ]
    parts: list[Part] = [
        Text(
            "Patients, not images, were split: none is in both parts. A linear classifier of fixed "
            "settings was fitted on embeddings of training patients. Thresholds were chosen on "
            f"training patients, by cross-validation in {FOLDS} folds of patients. All numbers "
            "below are of test patients, on whom nothing was fitted or chosen."
        ),
        Text(_of_pretraining(study, task)),
        Table("Parts", ["", "images", "patients"], rows),
    ]
    if task.left_out:
        parts.append(
            Text(
                f"Not judged, since fewer than {LEAST} patients of a part have or lack it: "
                f"{', '.join(task.left_out)}."
            )
        )
    return parts


def _of_pretraining(study: Study, task: Task) -> str:
    if study.seen is None:
        return (
            "Whom the encoder was trained on is not known. Test patients may be among them; "
            "then these numbers are too good."
        )
    patients = np.unique(study.groups[task.test])
    known = np.unique(study.groups[task.test[study.seen[task.test]]])
    incomplete = (
        ""
        if study.encoder.patients_["complete"]
        else (" Some of its training was without patients' ids, so others may have been seen.")
    )
    if len(known):
        return (
            f"The encoder was trained on {len(known)} of the {len(patients)} "
            f"test patients: their numbers may be too good.{incomplete}"
        )
    return f"The encoder was trained on none of the test patients.{incomplete}"


def _efficiency(study: Study, task: Task) -> tuple[list[tuple[str, str, str]], list[Part]]:
    features = {"encoder": study.Z, "raw pixels": pixel_features(study.images)}
    y, groups, train = task.labels.values, study.groups, task.train
    found = compare(
        features,
        y,
        groups,
        train=train,
        test=task.test,
        reference="raw pixels",
        fractions=_FRACTIONS,
        draws=_DRAWS,
        random_state=study.seed,
    )
    rows = []
    for column, fraction in enumerate(found.fractions):
        labeled = few_labels(y, groups, train=train, fraction=fraction, random_state=study.seed)
        difference, low, high = (
            getattr(found, name)[0, column] for name in ("difference", "low", "high")
        )
        rows.append(
            [
                percent(fraction),
                f"{len(np.unique(groups[labeled])):,}",
                *(f"{score:.3f}" for score in found.score[:, column]),
                signed(difference) + _interval(low, high, signed),
            ]
        )
    n = len(task.labels.findings())
    mean = f", mean of {n} findings" if n > 1 else ""
    auc, baseline = found.score[:, -1]
    numbers = [(f"{auc:.3f}", "AUC, all labels", f"raw pixels {baseline:.3f}")]
    return numbers, [
        Text(
            "AUC is the share of pairs of an image with a finding and one without that are put in "
            "the right order: 0.5 is chance, 1 is perfect. Raw pixels, small images given to the "
            "same classifier, are what an encoder has to beat."
        ),
        Table(
            f"AUC on test patients by share of labeled training patients{mean}",
            ["labels", "patients", "encoder", "raw pixels", "difference (95 % interval)"],
            rows,
        ),
        Picture.of(
            _curves(found),
            "AUC on test patients by share of labels, for the encoder and for raw pixels",
            f"AUC by share of labeled patients{mean}, over {_DRAWS} draws of them. An "
            "encoder is worth most where its line is high with few labels.",
        ),
        Picture.of(
            ComparisonDisplay(found).plot(new_figure(5.2, 3.2).add_subplot()).figure_,
            "Differences in AUC between the encoder and raw pixels, with intervals",
            "The same as differences from raw pixels. The intervals come from resampling test "
            "patients: where one includes 0, other test patients could reverse the difference.",
        ),
    ]


def _curves(found: Comparison) -> Any:
    ax = new_figure(5.2, 3.2).add_subplot()
    for index, (name, scores) in enumerate(zip(found.names, found.score, strict=True)):
        ax.plot(found.fractions, scores, "o-", color=color_of(index), markersize=5, label=name)
    ax.set(xscale="log", xlabel="share of labeled patients", ylabel="AUC on test patients")
    ax.set_xticks(found.fractions, [percent(share) for share in found.fractions])
    ax.set_xticks([], minor=True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9")
    ax.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return ax.figure


@keeping_filters()
def _calibration(predictions: list[Prediction]) -> list[Part]:
    rows = []
    for one in predictions:
        always = np.full(len(one.truth), one.train_truth.mean())
        rows.append(
            [
                one.name,
                f"{len(one.truth):,}",
                f"{one.truth.sum():,.0f}",
                f"{roc_auc_score(one.truth, one.score):.3f}",
                share(one.score.mean()),
                share(one.truth.sum(), len(one.truth)),
                f"{brier_score_loss(one.truth, one.score):.3f}",
                f"{brier_score_loss(one.truth, always):.3f}",
            ]
        )
    head = [
        "",
        "test images",
        "with it",
        "AUC",
        "mean probability",
        "true share",
        "Brier score",
        "Brier score of training share",
    ]
    plotted = _largest(predictions, _PLOTTED)
    return [
        Text(
            "If a finding is given a probability of 30 %, it should be there in 30 of 100 such "
            "images. The Brier score is the mean squared error of probabilities: lower is better, "
            "and it should be below that of always saying the share of the training patients."
        ),
        Table("Probabilities on test patients", head, rows),
        Picture.of(
            _reliability(plotted),
            "True share of images with a finding by predicted probability",
            "True share by predicted probability. Each point is a group of test images of similar "
            f"probability, a tenth of them or about {_IN_A_POINT}. Points on the gray line are "
            "right; below it, probabilities are too high. Few images make points scatter.",
        ),
    ]


def _reliability(predictions: Sequence[Prediction]) -> Any:
    columns = min(3, len(predictions))
    lines = -(-len(predictions) // columns)
    figure = new_figure(max(3.6, 2.5 * columns), 2.7 * lines + 0.4)
    for place, one in enumerate(predictions):
        ax = figure.add_subplot(lines, columns, place + 1)
        bins = int(np.clip(len(one.truth) // _IN_A_POINT, 2, 10))
        true, predicted = calibration_curve(one.truth, one.score, n_bins=bins, strategy="quantile")
        ax.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        ax.plot(predicted, true, "o-", color=color_of(0), markersize=4)
        ax.set(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        ax.set_title(one.name[:40], fontsize=9, parse_math=False)
        ax.tick_params(labelsize=8)
        ax.grid(color="0.93")
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("predicted probability", fontsize=9)
    figure.supylabel("true share", fontsize=9)
    return figure


def _thresholds(study: Study, predictions: list[Prediction]) -> list[Part]:
    rows = []
    for one in predictions:
        for goal, threshold in _chosen(one.train_truth, one.train_score):
            point = operating_point(
                one.truth, one.score, threshold, one.groups, random_state=study.seed
            )
            rows.append(
                [
                    one.name,
                    goal,
                    share(threshold),
                    *(
                        share(rate) + _interval(*interval, lambda end: f"{100 * end:.1f}")
                        for rate, interval in (
                            (point.sensitivity, point.sensitivity_interval),
                            (point.specificity, point.specificity_interval),
                        )
                    ),
                ]
            )
    return [
        Text(
            "An image is called positive if its probability reaches a threshold. The thresholds "
            "were chosen on training patients, so sensitivity and specificity on test patients can "
            "miss what was aimed at."
        ),
        Table(
            "On test patients, with 95 % intervals by patient",
            ["", "chosen for", "threshold", "sensitivity", "specificity"],
            rows,
        ),
    ]


@keeping_filters()
def _chosen(truth: NDArray[np.float64], score: NDArray[np.float64]) -> list[tuple[str, float]]:
    """Return thresholds, each with what it was chosen for."""
    # The first threshold is infinite: nothing is positive.
    false, true, thresholds = (each[1:] for each in roc_curve(truth, score))
    return [
        ("most sensitivity plus specificity", float(thresholds[np.argmax(true - false)])),
        (f"sensitivity of {percent(_SENSITIVE)}", float(thresholds[np.argmax(true >= _SENSITIVE)])),
    ]


def _explanations(study: Study, task: Task) -> list[Part]:
    if study.encoder._architecture["pooling"] == "token":
        return [
            Text(
                "The encoder embeds an image as its class token, which is no sum over regions, so "
                "no score can be split by them."
            )
        ]
    parts: list[Part] = [
        Text(
            "The score of the linear classifier is exactly an intercept plus what the regions of "
            "the image contribute. Red regions raise the score, blue ones lower it. What a region "
            "contributes can depend on what the encoder sees around it, so this is no outline of "
            "a disease. The images are test patients', drawn at random: two with the finding, and "
            "one without."
        )
    ]
    findings = task.labels.findings()
    common = sorted(findings, key=lambda finding: -np.nansum(finding[1][task.train]))
    for name, truth in common[:_EXPLAINED]:
        train = task.train[~np.isnan(truth[task.train])]
        with keeping_filters():
            probe = make_probe().fit(study.Z[train], truth[train])
        random = np.random.default_rng(study.seed)
        rows = np.concatenate(
            [
                random.permutation(task.test[truth[task.test] == value])[:most]
                for value, most in ((1, 2), (0, 1))
            ]
        )
        images = study.some(rows)
        found = explain(make_pipeline(study.encoder, probe), images)
        found["classes"] = np.array([f"not {name}", name], dtype=object)
        figure = ExplanationDisplay(found, as_seen(study.encoder, images)).plot().figure_
        height, width = found.contributions.shape[1:]
        parts.append(
            Picture.of(
                figure,
                f"Contributions of regions to the score of {name}, over three X-rays",
                f"{name}. A positive score speaks for it. Regions: {height} x {width}.",
                photo=True,
            )
        )
    return parts


def _largest(predictions: list[Prediction], most: int) -> list[Prediction]:
    """Return the findings that most training images have, in their order."""
    order = sorted(range(len(predictions)), key=lambda i: -predictions[i].train_truth.sum())
    return [predictions[i] for i in sorted(order[:most])]


def _interval(low: float, high: float, form: Callable[[float], str]) -> str:
    if np.isnan(low):
        return " (too few patients for an interval)"
    return f" ({form(low)} to {form(high)})"
