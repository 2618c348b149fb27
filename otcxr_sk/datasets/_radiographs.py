"""What the readers and the generator of this package return."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch

from otcxr_sk._columns import check_patients


class Radiographs(Bunch):
    """Chest X-rays with their labels and patients, as every reader returns them.

    A dict whose keys are also attributes (:class:`~sklearn.utils.Bunch`). Below, n is the number
    of images and k the number of labels. The docstring of a reader says what its labels,
    patients and split are, and which fields it adds.

    Attributes
    ----------
    X : ndarray of object (str), shape (n,), or ndarray of shape (n, h, w)
        What to pass to an estimator, as a whole or some rows of it, ``X[train]``: `paths`, or
        `images` if there are no files.
    paths : list of str or None
        File of each image; None if the images are in one array.
    images : ndarray of shape (n, h, w) or None
        Images; None if they are in files.
    labels : ndarray of float64 (phantoms: uint8), shape (n, k)
        1 (present), 0 (absent) or NaN (unknown).
    label_names : list of str
        Names of the k columns of `labels`.
    groups : ndarray of str or int, shape (n,)
        Patient of each image, none of them missing, for a splitter such as
        :class:`~sklearn.model_selection.GroupKFold`. If no patients are published, each image is
        its own group.
    split : ndarray of str, shape (n,), or None
        "train", "valid" or "test", as published; None if no split is published.
    table : dict of str to ndarray of object, shape (n,)
        Published columns as text, blank values as "": ``pandas.DataFrame(data.table)``.
    missing : list of str
        Names of the images that ``missing="drop"`` left out.

    See Also
    --------
    check_leakage : Check that a split keeps patients apart.
    find_near_duplicates : Find images that appear more than once.

    Notes
    -----
    All readers of published data sets raise FileNotFoundError if the folder, a table or an image
    does not exist (the message says what to download and from where), and ValueError if a
    parameter is unknown or a table is not as published (the message names the file and the row).
    """

    def __init__(
        self,
        *,
        labels: NDArray[Any],
        label_names: Sequence[str],
        groups: ArrayLike,
        paths: list[str] | None = None,
        images: NDArray[Any] | None = None,
        split: ArrayLike | None = None,
        table: Mapping[str, Sequence[str]] | None = None,
        missing: Sequence[str] = (),
        **more: Any,
    ) -> None:
        super().__init__(
            # Lists cannot be indexed by the rows that a splitter returns.
            X=np.array(paths, dtype=object) if images is None else images,
            paths=paths,
            images=images,
            labels=labels,
            label_names=list(label_names),
            groups=check_patients(groups, len(labels)),
            split=None if split is None else np.asarray(split),
            table={name: np.array(texts, dtype=object) for name, texts in (table or {}).items()},
            missing=list(missing),
            **more,
        )
