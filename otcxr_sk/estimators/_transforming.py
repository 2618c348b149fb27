"""Images -> embeddings, a batch at a time, in memory or on disk."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from otcxr_sk.estimators._encoding import Encoder, load
from otcxr_sk.estimators._output import Output
from otcxr_sk.estimators._unusable import keep_report, warn_of
from otcxr_sk.estimators._workers import Embedded, embed_by_workers, offered_workers
from otcxr_sk.images import ImageSource
from otcxr_sk.images._problems import Unusable

if TYPE_CHECKING:
    from otcxr_sk.estimators._embedding import EncoderEstimator


def embed(estimator: EncoderEstimator, X: Any, *, dense: bool, out: Any) -> NDArray[np.float32]:
    """Do the work of `transform` and `transform_dense`."""
    check_is_fitted(estimator)
    source = estimator._source(X, fitting=False)
    channels, rows, columns = estimator._model().encoder.last_shape
    shape = (len(source), *((rows, columns, channels) if dense else (channels,)))
    quiet = estimator.verbose <= 0
    problems: list[Unusable] = []
    with (
        Output(out, shape) as output,
        closing(_pieces(estimator, source, shape, dense)) as pieces,
        tqdm(total=len(source), desc="embedding", unit="img", disable=quiet) as bar,
    ):
        for start, values, found, _ in pieces:
            assert values is not None
            output.write(start, values)
            bar.update(len(values))
            # Other processes may know a file by another path.
            problems += [problem._replace(file=source.file(problem.row)) for problem in found]
    problems.sort(key=lambda problem: problem.row)
    warn_of(problems, len(source), estimator.on_error, "Their rows of the embedding are NaN.")
    keep_report(estimator, problems)
    return output.result()


def _pieces(
    estimator: EncoderEstimator, source: ImageSource, shape: tuple[int, ...], dense: bool
) -> Generator[Embedded, None, None]:
    starts = range(0, len(source), estimator.batch_size)
    n_workers = offered_workers() if len(starts) > 1 else 1
    if n_workers > 1:
        yield from embed_by_workers(estimator, source, shape, dense=dense, n_workers=n_workers)
        return
    encoder = Encoder(estimator)
    loaded = load(estimator, source, 0, len(source), estimator.num_workers)
    for start, (images, found) in zip(starts, loaded, strict=True):
        yield Embedded(start, encoder((images, found), start, dense), found)
