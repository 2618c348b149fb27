"""One page about a fitted encoder."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from otcxr_sk._columns import check_patients
from otcxr_sk._files import replacing
from otcxr_sk._ordinary import ordinary
from otcxr_sk._paths import as_path
from otcxr_sk.images import Selection, open_source, recognize
from otcxr_sk.plotting._display import Display
from otcxr_sk.plotting.reporting._judge import judge
from otcxr_sk.plotting.reporting._look import look
from otcxr_sk.plotting.reporting._page import Numbers, render, require_jinja
from otcxr_sk.plotting.reporting._study import Study
from otcxr_sk.plotting.reporting._task import check_labels


@ordinary()
def report(
    encoder: Any,
    X: Any,
    y: Any = None,
    *,
    groups: Any,
    path: Any,
    title: str = "Report on an encoder of chest X-rays",
    label_names: Sequence[str] | None = None,
    random_state: Any = None,
) -> None:
    """Write a page by which a radiologist and a data scientist can judge a fitted encoder.

    The page is one HTML file that needs no network, runs no script, and names no patient and no
    file. It shows the data, the curves of training, measures of the embedding, neighbors of some
    images and what is matched with what; and, with labels, how many of them it takes, whether
    probabilities can be trusted, what thresholds do, and where scores come from.

    Patients are never split. A linear probe (`make_probe`) is fitted on the training patients, on
    whom thresholds are chosen, too, by cross-validation. All numbers are of test patients: those
    whom the encoder was not trained on, if it knows (`OTCXRPretrainer.seen`) and there are others,
    or a third of them if they are more than half; else a third of all patients, drawn so that
    labels are balanced. The page says which.

    Parameters
    ----------
    encoder : OTCXRPretrainer
        Fitted. It embeds the images once.
    X : array-like or sequence of paths
        At least two images, as for the encoder. Those that cannot be used are counted and left out
        if `on_error` of the encoder allows them, and an error otherwise.
    y : array-like of shape (n,) or (n, k), default=None
        Classes; or k labels of 0 and 1. NaN where unknown. A label or class that fewer than five
        patients of one part have is not judged. Without, the page has no part that needs labels.
    groups : array-like of shape (n,)
        Patient of each image, none missing.
    path : path
        The file to write, in a folder that exists. A file that is there is replaced once the new
        one is complete.
    title : str
        Heading of the page.
    label_names : sequence of str, default=None
        Names of the k labels, or of the only one. By default those of the columns of a data frame.
    random_state : int, RandomState instance or None, default=None
        Draws images to show, patients and resamples. With the same int, the page is the same.

    Raises
    ------
    ImportError
        matplotlib or jinja2 is not installed: the extra ``plots``.
    TypeError
        `encoder` is no pretrainer.
    ValueError
        Fewer than two images can be used, or `y`, `groups` or `label_names` do not fit `X`.
    OSError
        The file cannot be written, as is found before images are read.

    Warns
    -----
    UnusableImageWarning
        Some images cannot be used.

    See Also
    --------
    otcxr_sk.evaluation.compare : The comparison with raw pixels.
    otcxr_sk.evaluation.operating_point : Sensitivity and specificity.

    Examples
    --------
    >>> import os, tempfile
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> from otcxr_sk.plotting import report
    >>> data = make_chest_phantoms(8, image_size=32, random_state=0)
    >>> encoder = OTCXRPretrainer("resnet10t", image_size=32, epochs=0, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "report.html")
    ...     report(encoder.fit(data.images), data.images, groups=data.groups, path=path)
    ...     os.path.getsize(path) > 10_000
    True
    """
    Display.require_matplotlib()
    require_jinja()
    if not (hasattr(encoder, "transform_dense") and hasattr(encoder, "match_pairs")):
        raise TypeError(f"encoder must be an OTCXRPretrainer, got {type(encoder).__name__}")
    check_is_fitted(encoder)
    content = recognize(X)
    source = open_source(
        content,
        resize=encoder._architecture["resize"],
        image_shape=encoder.image_shape,
        allow_missing=True,
    )
    n = len(source)
    patients = check_patients(groups, n)
    labels = None if y is None else check_labels(y, n, label_names)
    seen = None if encoder.patients_ is None else encoder.seen(patients)
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)

    with replacing(as_path(path)) as file:
        Z = encoder.transform(X)
        rows = np.flatnonzero(np.isfinite(Z).all(axis=1))
        if len(rows) < 2:
            raise ValueError(f"at least 2 images are needed, and {len(rows)} of {n} can be used")
        study = Study(
            encoder=encoder,
            images=source if len(rows) == n else Selection(source, rows),
            Z=Z[rows],
            groups=patients[rows],
            labels=None if labels is None else labels.rows(rows),
            seen=None if seen is None else seen[rows],
            content=content,
            unusable=n - len(rows),
            seed=seed,
        )
        numbers, sections = look(study)
        more, judged = judge(study)
        page = render(title, Numbers(numbers + more), sections + judged)
        file.write(page.encode("utf-8", "replace"))
