"""The parts of a page that need no labels."""

import os
import re
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from otcxr_sk.evaluation import embedding_health
from otcxr_sk.images import read_image
from otcxr_sk.plotting._display import new_figure
from otcxr_sk.plotting._embedding import EmbeddingDisplay
from otcxr_sk.plotting._health import EmbeddingHealthDisplay
from otcxr_sk.plotting._history import HistoryDisplay
from otcxr_sk.plotting._matching import MatchingDisplay
from otcxr_sk.plotting._retrieval import RetrievalDisplay
from otcxr_sk.plotting._transport import TransportDisplay
from otcxr_sk.plotting.reporting._page import (
    MINUS,
    Numbers,
    Part,
    Picture,
    Section,
    Table,
    Text,
    share,
)
from otcxr_sk.plotting.reporting._study import Study

# Patients with an image of which two views are matched.
_MATCHED = 32
# Files that are opened to tell their size.
_MEASURED = 20

# Other endings of a name may be a part of somebody's number.
_KINDS = {
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
    **dict.fromkeys((".jpg", ".jpeg"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".png": "PNG",
    ".npy": "NPY",
}

_QUERIES, _NEIGHBORS, _VIEWS, _PAIRS = 3, 4, 2, 2


def look(study: Study) -> tuple[list[tuple[str, str, str]], list[Section]]:
    """Return the numbers of the summary, and the sections."""
    n, rows = len(study.groups), study.sample()
    health = embedding_health(study.Z[rows])
    few = study.of_patients(min(_MATCHED, max(2, study.encoder.batch_size)))
    matching = study.encoder.match(study.some(few), random_state=study.seed)
    width = study.Z.shape[1]
    numbers = [
        (f"{n:,}", "images", f"of {len(np.unique(study.groups)):,} patients"),
        (
            f"{matching.accuracy:.2f}",
            "matching accuracy",
            f"by chance {matching.chance:.2f}, at best 1",
        ),
        (f"{health.effective_rank:.1f}", "effective rank", f"of at most {min(width, n - 1)}"),
    ]
    return numbers, [
        Section("data", "Data", _data(study)),
        Section("training", "Training", _training(study.encoder)),
        Section("health", "Health of the embedding", _health(study, health, rows)),
        Section("neighbors", "Neighbors", _neighbors(study, rows)),
        Section("matching", "What is matched with what", _matching(study, matching, few)),
    ]


def _data(study: Study) -> list[Part]:
    names, counts = np.unique(study.groups, return_counts=True)
    parts: list[Part] = [
        Numbers(
            [
                (f"{len(study.groups):,}", "images", ""),
                (f"{len(names):,}", "patients", ""),
                (f"{np.median(counts):g}", "images per patient", f"median; at most {counts.max()}"),
                (f"{study.unusable:,}", "unusable images", "left out of all that follows"),
            ]
        ),
        Table("Kinds and sizes of images", ["", "images"], _kinds(study)),
    ]
    if study.labels is not None:
        rows = []
        for name, truth in study.labels.findings():
            known, positive = ~np.isnan(truth), truth == 1
            patients = len(np.unique(study.groups[positive]))
            rows.append(
                [
                    name,
                    f"{known.sum():,}",
                    f"{positive.sum():,}",
                    share(positive.sum(), known.sum()),
                    f"{patients:,}",
                    share(patients, len(np.unique(study.groups[known]))),
                ]
            )
        head = ["", "known images", "with it", "share", "patients with it", "share"]
        parts.append(Table("Labels", head, rows))
    return parts


def _kinds(study: Study) -> list[list[str]]:
    n = len(study.images)
    files = [study.images.file(row) for row in range(n)]
    kinds = Counter(
        "in memory" if file is None else _KINDS.get(os.path.splitext(file)[1].lower(), "other file")
        for file in files
    )
    rows = [[kind, f"{count:,}"] for kind, count in kinds.most_common()]
    drawn = [files[row] for row in study.of_patients(_MEASURED)]
    sizes = Counter(read_image(file).shape for file in drawn if file is not None)
    shape = study.content.values.shape[1:] if study.content.kind == "stack" else ()
    size = tuple(side for side in shape if side not in (1, 3))
    if sizes:
        found = ", ".join(f"{h} x {w}" for (h, w), _ in sizes.most_common(3))
        more = " and others" if len(sizes) > 3 else ""
        rows.append(
            [f"height x width in pixels: {found}{more}", f"{sum(sizes.values())} looked at"]
        )
    elif len(size) == 2:
        rows.append([f"height x width in pixels: {size[0]} x {size[1]}", "all"])
    return rows


def _training(encoder: Any) -> list[Part]:
    name, size = encoder.encoder_name_, encoder._architecture["image_size"]
    parts: list[Part] = [
        Table(
            "Encoder",
            ["", ""],
            [
                # Others are those of a folder.
                ["architecture", name if re.fullmatch(r"[\w.]+", name) else "one of its own"],
                ["images are read as", f"{size} x {size} pixels"],
                ["width of the embedding", str(encoder.embedding_dim_)],
                ["epochs", str(encoder.n_epochs_)],
            ],
        )
    ]
    if not encoder.history_.get("loss"):
        return [*parts, Text("The encoder was not trained here, so there are no curves.")]
    figure = HistoryDisplay.from_estimator(encoder).figure_
    caption = (
        "Epoch by epoch. The loss should fall and then level off. Matching accuracy should rise "
        "above chance (dashed). Spread and effective rank should stay well above zero: if they "
        "fall to nothing, all images look alike to the encoder."
    )
    return [*parts, Picture.of(figure, "Curves of training by epoch", caption)]


def _health(study: Study, health: Bunch, rows: NDArray[np.intp]) -> list[Part]:
    n, width = len(rows), study.Z.shape[1]
    of = "" if n == len(study.groups) else f" Measured on {n:,} images, drawn at random."
    parts: list[Part] = [
        Text(
            "A healthy encoder gives different images different embeddings, along many directions."
            + of
        ),
        Numbers(
            [
                (f"{health.spread:.2f}", "spread", "0: all embeddings are the same; at most 1"),
                (
                    f"{health.effective_rank:.1f}",
                    "effective rank",
                    f"directions in use, of at most {min(width, n - 1)}",
                ),
                (
                    f"{health.uniformity:.2f}".replace("-", MINUS),
                    "uniformity",
                    f"0: all point the same way; lower is more even, at least {MINUS}8",
                ),
            ]
        ),
    ]
    if not health.effective_rank:
        return [*parts, Text("All embeddings are the same: the encoder has collapsed.")]
    ax = new_figure(5.2, 3.2).add_subplot()
    EmbeddingHealthDisplay({"": health}).plot(ax).ax_.get_legend().remove()
    picture = Picture.of(
        ax.figure,
        "Share of the spread along each direction, largest first",
        "Share of the spread along each direction, the largest first. A line that falls early "
        "belongs to an embedding that uses few directions. The dot is the effective rank.",
    )
    return [*parts, picture]


def _neighbors(study: Study, rows: NDArray[np.intp]) -> list[Part]:
    parts: list[Part] = [_map(study, rows)]
    queries = study.of_patients(_QUERIES)
    if len(queries) < 2:
        return [*parts, Text("There is one patient, so there are no neighbors of other patients.")]
    display = RetrievalDisplay.from_features(
        study.Z, study.images, queries, groups=study.groups, k=_NEIGHBORS
    )
    for ax in display.figure_.axes:
        ax.set_title(ax.get_title().partition(": ")[2] or "image", fontsize=8)
        if not ax.images:
            ax.set_title("")
    picture = Picture.of(
        display.figure_,
        f"{len(queries)} images, each with its nearest neighbors from other patients",
        "Each row begins with an image, drawn at random. Beside it are the images of other "
        "patients that the encoder finds most similar, with their similarity (1 is the same "
        "direction). Do they share what matters, or only machine, position and brightness?",
        photo=True,
    )
    return [*parts, picture]


def _map(study: Study, rows: NDArray[np.intp]) -> Picture:
    ax, y, of = new_figure(6.4, 5.4).add_subplot(), None, ""
    findings = [] if study.labels is None else study.labels.findings()
    if findings:
        name, truth = max(findings, key=lambda finding: np.nansum(finding[1]))
        words = {1.0: "with it", 0.0: "without it"}
        y = np.array([words.get(one) for one in truth[rows].tolist()], dtype=object)
        of = f" Colors tell whether an image has the most frequent label, {name}."
    EmbeddingDisplay.from_features(study.Z[rows], study.some(rows), y, ax=ax)
    if y is not None:
        handles, texts = ax.get_legend_handles_labels()
        ax.legend(
            handles, texts, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3
        )
    return Picture.of(
        ax.figure,
        "Embeddings as points of a plane, some of them with their images",
        "All embeddings, projected onto the two directions in which they differ most. Images that "
        "lie side by side look alike to the encoder, as far as two directions can show that." + of,
        photo=True,
    )


def _matching(study: Study, matching: Bunch, few: NDArray[np.intp]) -> list[Part]:
    parts: list[Part] = [
        Text(
            f"Two views of each of {len(few)} images, each of another patient, were matched region "
            f"by region. {share(matching.accuracy)} of the mass came within one region of its true "
            f"place; by chance it would be {share(matching.chance)}."
        )
    ]
    shown = slice(_VIEWS)
    part = Bunch(**matching)
    part.update({name: matching[name][shown] for name in ("views", "affine", "plan")})
    figure = MatchingDisplay(part).plot().figure_
    figure.suptitle("")
    parts.append(
        Picture.of(
            figure,
            "Regions of one view of an image and where they are found in another view",
            "Left: a view of an image with four framed regions. Right: another view of the same "
            "image; the stronger a color, the more of the region framed in it was sent there. A "
            "cross marks the true place.",
            photo=True,
        )
    )
    pairs = min(_PAIRS, len(few) // 2)
    if pairs:
        figure = TransportDisplay.from_estimator(
            study.encoder, study.some(few[:pairs]), study.some(few[pairs : 2 * pairs])
        ).figure_
        parts.append(
            Picture.of(
                figure,
                "Regions of one patient and where they are sent in another patient",
                "Left: one patient. Right: another one. An arrow begins at the place of a region "
                "and ends where, on average, it was found in the other patient; the wider, the "
                "more certain. Nobody knows the truth here: arrows should be short, and link what "
                "is the same part of the body.",
                photo=True,
            )
        )
    return parts
