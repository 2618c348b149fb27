"""What `fit` does, from images to learnt weights."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state

from otcxr_sk.estimators._held_out import check_groups, hold_out, parts
from otcxr_sk.estimators._learnt import take
from otcxr_sk.estimators._parameters import MODEL_PARAMETERS, check_together
from otcxr_sk.estimators._run import open_run
from otcxr_sk.estimators._stream import History, is_warm, joined, start_model
from otcxr_sk.estimators._unusable import warn_of
from otcxr_sk.estimators._watching import SklearnCallbacks, check_callbacks
from otcxr_sk.training.callbacks import Watch
from otcxr_sk.training.collapse import CollapseAlarm
from otcxr_sk.training.distributed import join_processes, scan
from otcxr_sk.training.runtime import private_randomness
from otcxr_sk.training.trainer import NonFiniteLossError, TrainingInterrupted

if TYPE_CHECKING:
    from otcxr_sk.estimators._pretrainer import OTCXRPretrainer


def pretrain(estimator: OTCXRPretrainer, X: Any, y: Any, groups: Any) -> None:
    """Do the work of `OTCXRPretrainer.fit`, in each of the processes that train together."""
    check_together(estimator)
    callbacks = check_callbacks(estimator.callbacks, estimator.validation_fraction)
    processes = join_processes(estimator.device)
    source = estimator._source(X, fitting=True)
    architecture = {name: getattr(estimator, name) for name in MODEL_PARAMETERS}
    seed = int(check_random_state(estimator.random_state).randint(np.iinfo(np.int32).max))
    patients = check_groups(groups, len(source))
    with (
        open_run(estimator, source, seed, patients, processes) as run,
        private_randomness(run.seed, processes.device),
    ):
        held_out = hold_out(patients, estimator.validation_fraction, run.seed)
        model = start_model(estimator, architecture)
        found = run.scan or scan(
            processes,
            source,
            estimator.image_size,
            held_out=held_out,
            batch_size=estimator.batch_size,
            num_workers=estimator.num_workers,
            refuse_unusable=estimator.on_error == "raise",
            progress=estimator.verbose > 0,
        )
        if processes.is_first:
            warn_of(
                found.unusable, len(source), estimator.on_error, "They are left out of training."
            )
        earlier: History = {}
        if is_warm(estimator):
            earlier = estimator.history_
            found = found._replace(mean=estimator.mean_, std=estimator.std_)
        training, validation = parts(source, held_out, found.unusable)
        run.keep_scan(found, len(training))
        alone = estimator._trainer(architecture, found.mean, found.std, run.seed, processes.device)
        alarm = [CollapseAlarm(len(training))] if processes.is_first else []
        watch = Watch(
            [*callbacks, *alarm, *SklearnCallbacks.of(estimator, X, y)],
            validation,
            lambda state: take(
                copy(estimator), state.network, architecture, found, joined(earlier, state.history)
            ),
        )
        failure: BaseException | None = None
        try:
            trainer = replace(alone, processes=processes)
            history = trainer.fit(model, training, run.checkpoints, run.start, watch)
        except NonFiniteLossError as error:
            if not error.epoch:
                raise
            history, failure = error.history, error
        except TrainingInterrupted as error:
            history, failure = error.history, error
    take(estimator, model, architecture, found, joined(earlier, history))
    if failure is not None:
        raise failure
