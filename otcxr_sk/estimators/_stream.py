"""Training that goes on: from fitted weights, and over a stream of images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from otcxr_sk.estimators._embedding import EncoderEstimator, build_model
from otcxr_sk.estimators._learnt import take
from otcxr_sk.estimators._parameters import MODEL_PARAMETERS, check_together
from otcxr_sk.estimators._persistence import unpack
from otcxr_sk.estimators._unusable import leave_out, warn_of
from otcxr_sk.images import scan
from otcxr_sk.method.model import OTCXRModel
from otcxr_sk.training.callbacks import Watch
from otcxr_sk.training.collapse import CollapseAlarm
from otcxr_sk.training.distributed import join_processes
from otcxr_sk.training.optimiser import WarmupConstant
from otcxr_sk.training.runtime import private_randomness
from otcxr_sk.training.stream import Memory
from otcxr_sk.training.trainer import TrainingInterrupted

History = dict[str, list[float]]


@dataclass
class _Stream:
    """What a stream keeps beside its estimator, and for which weights and optimiser."""

    seed: int
    weights: NDArray[np.uint8] | None
    settings: tuple[Any, ...]
    memory: Memory = field(default_factory=Memory)


_streams: WeakKeyDictionary[Any, _Stream] = WeakKeyDictionary()


class StreamEstimator(EncoderEstimator):
    """An estimator that learns from one part of its images after another."""

    weights: Any
    warm_start: bool
    random_state: Any
    history_: History
    n_epochs_: int

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Go once over some images, and on from there with the next call.

        The learning rate rises for 40 steps and then stays at its peak. What the optimiser
        remembers is kept from call to call for as long as this object lives; it is not pickled,
        and a copy begins it anew from the weights. So does a call after `fit`, which goes on from
        what that has learnt. `mean_`, `std_` and all that describes network and loss are those of
        the first call, or of `fit`. `epochs`, `max_time`, `checkpoint_dir`, `callbacks` and
        `validation_fraction` have no part in it.

        Parameters
        ----------
        X : array-like or sequence of paths
            At least two images; see the class. They are trained on in batches of `batch_size`,
            each image once, and read once before that as `fit` does.
        y : ignored

        Returns
        -------
        self : OTCXRPretrainer
            `history_` and `n_epochs_` count every call as an epoch; `skipped_` is of the last.

        Raises
        ------
        ValueError, ImageReadError, NonFiniteLossError
            As `fit` does. The estimator then is as before the call.
        KeyboardInterrupt
            After Ctrl-C, when the step under way is done; the estimator has its weights.

        Warns
        -----
        CollapseWarning, UnusableImageWarning
            As `fit` does.
        """
        self._validate_params()
        check_together(self)
        processes = join_processes(self.device)
        if processes.count > 1:
            raise ValueError(
                "partial_fit trains in one process: start the script without torchrun, or use fit"
            )
        device = processes.device
        first = not hasattr(self, "weights_")
        source = self._source(X, fitting=first)
        if len(source) < 2:
            raise ValueError("partial_fit needs at least 2 images, found 1 sample")
        stream = self._stream()
        if first:
            architecture = {name: getattr(self, name) for name in MODEL_PARAMETERS}
            with private_randomness(stream.seed, device):
                model = build_model(architecture, self.weights)
        else:
            architecture = self._architecture
            with private_randomness(stream.seed, device):
                model = build_model(architecture, None)
            unpack(self.weights_, model)
        found = scan(
            source,
            architecture["image_size"],
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            refuse_unusable=self.on_error == "raise",
            progress=self.verbose > 0,
        )
        warn_of(found.unusable, len(source), self.on_error, "They are left out of training.")
        source = leave_out(source, found.unusable)
        if not first:
            found = found._replace(mean=self.mean_, std=self.std_)
        earlier = {} if first else self.history_
        # Every part is drawn by a seed of its own.
        passes = np.random.SeedSequence([stream.seed, len(earlier.get("loss", []))])
        seed = int(passes.generate_state(1)[0])
        trainer = replace(
            self._trainer(architecture, found.mean, found.std, seed, device),
            epochs=1,
            schedule=WarmupConstant(),
        )
        failure: TrainingInterrupted | None = None
        with private_randomness(seed, device):
            try:
                history = trainer.fit(
                    model,
                    source,
                    stream.memory,
                    stream.memory.load(),
                    Watch([CollapseAlarm(len(source))]),
                )
            except TrainingInterrupted as error:
                history, failure = error.history, error
        take(self, model, architecture, found, joined(earlier, history))
        stream.weights = self.weights_
        _streams[self] = stream
        if failure is not None:
            raise failure
        return self

    def _stream(self) -> _Stream:
        """Find the stream that the weights are of, or begin one."""
        weights = getattr(self, "weights_", None)
        settings = (self.optimizer, self.ema)
        known = _streams.get(self)
        if known is not None and known.weights is weights and known.settings == settings:
            return known
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        return _Stream(seed, weights, settings)


def is_warm(estimator: Any) -> bool:
    """Whether `fit` goes on from fitted weights."""
    return bool(estimator.warm_start) and hasattr(estimator, "weights_")


def start_model(estimator: Any, architecture: Mapping[str, Any]) -> OTCXRModel:
    """Make the network that `fit` starts from.

    Raises
    ------
    ValueError
        It is to have the fitted weights, and parameters have changed so that it cannot.
    """
    if not is_warm(estimator):
        return build_model(architecture, estimator.weights)
    model = build_model(architecture, None)
    try:
        unpack(estimator.weights_, model)
    except RuntimeError as error:
        before = estimator._architecture
        changed = [name for name in MODEL_PARAMETERS if architecture[name] != before[name]]
        raise ValueError(
            f"warm_start=True, but {', '.join(changed)} changed since the last fit so that its "
            "weights do not fit any more; set them back, or use warm_start=False"
        ) from error
    return model


def joined(earlier: Mapping[str, Sequence[float]], later: Mapping[str, Sequence[float]]) -> History:
    """One history after another; NaN where only one of them has a number."""
    lengths = [max(map(len, part.values()), default=0) for part in (earlier, later)]
    return {
        name: [
            number
            for part, length in zip((earlier, later), lengths, strict=True)
            for number in part.get(name, [math.nan] * length)
        ]
        for name in {**earlier, **later}
    }
