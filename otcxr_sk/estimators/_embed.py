"""Images to embeddings, a batch at a time, in memory or on disk."""

from collections.abc import Generator
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from otcxr_sk.estimators._encoder import Embedder, FittedEncoder, come
from otcxr_sk.estimators._output import Output
from otcxr_sk.estimators._workers import Embedded, embed_by_workers, offered_workers
from otcxr_sk.images import FITTED, ImageSource, Spreads, Unusable, behind, warn_unusable
from otcxr_sk.method import OTCXRModel


def embed(
    encoder: FittedEncoder,
    model: OTCXRModel,
    source: ImageSource,
    *,
    dense: bool,
    out: Any,
    num_workers: int | str,
    progress: bool,
) -> tuple[NDArray[np.float32], list[Unusable]]:
    """Do the work of `transform` and `transform_dense`.

    Parameters
    ----------
    encoder : FittedEncoder
    model : OTCXRModel
        From `encoder.load()`.
    source : ImageSource
    dense : bool
        Whether to return dense maps.
    out : None, path or ndarray
        See `Output`.
    num_workers : int or "auto"
        Processes that read images.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    embedding : ndarray of shape (n, C) or (n, h, w, C), float32
    problems : list of Unusable
        Images whose rows are NaN.
    """
    channels, rows, columns = model.encoder.last_shape
    shape = (len(source), *((rows, columns, channels) if dense else (channels,)))
    problems: list[Unusable] = []
    spreads = Spreads(len(source))
    with (
        Output(out, shape) as output,
        closing(_pieces(encoder, model, source, shape, dense, num_workers)) as pieces,
        tqdm(total=len(source), desc="embedding", unit="img", disable=not progress) as bar,
    ):
        for start, values, found, seen in pieces:
            spreads.note(slice(start, start + len(values)), seen)
            output.write(start, values)
            bar.update(len(values))
            # Workers may know a file by another path.
            problems += [problem._replace(file=source.file(problem.row)) for problem in found]
    problems.sort(key=lambda problem: problem.row)
    fate = (
        "Their rows of the embedding are NaN, which most classifiers refuse: leave them out there."
    )
    warn_unusable(problems, len(source), encoder.on_error, fate)
    spreads.warn(source, encoder.mean, encoder.std, FITTED)
    return output.result(), problems


def _pieces(
    encoder: FittedEncoder,
    model: OTCXRModel,
    source: ImageSource,
    shape: tuple[int, ...],
    dense: bool,
    num_workers: int | str,
) -> Generator[Embedded, None, None]:
    starts = range(0, len(source), encoder.step)
    n_workers = offered_workers() if len(starts) > 1 else 1
    if n_workers > 1:
        yield from embed_by_workers(
            encoder, source, shape, dense=dense, n_workers=n_workers, num_workers=num_workers
        )
        return
    embedder = Embedder(encoder, model)
    with closing(encoder.read(source, 0, len(source), num_workers, embedder.device)) as loaded:
        begun = ((embedder(images, dense), found) for images, found in loaded)
        for start, (coming, found) in zip(starts, behind(begun, embedder.device), strict=True):
            values, seen = come(coming, start, found)
            yield Embedded(start, values, found, seen)
