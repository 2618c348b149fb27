"""What `fit` and `partial_fit` do, from images to learned weights."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupShuffleSplit
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from otcxr_sk._quote import counted
from otcxr_sk._warning import keeping_filters
from otcxr_sk.estimators._encoder import build_network, name_of
from otcxr_sk.estimators._inputs import numbered
from otcxr_sk.estimators._parameters import Settings
from otcxr_sk.estimators._run import Run, describe_run, open_run
from otcxr_sk.estimators._seen import count, new_salt, nobody, note
from otcxr_sk.estimators._state import History, Learned, Stream, pack, part_of, restore, unpack
from otcxr_sk.images import (
    FITTED,
    ImageSource,
    Selection,
    Spreads,
    leave_out,
    unusable_table,
    warn_unusable,
)
from otcxr_sk.method import OTCXRModel, without_read_out
from otcxr_sk.training import (
    Callback,
    CollapseAlarm,
    Draw,
    Processes,
    Randomness,
    Trainer,
    TrainingState,
    WarmupConstant,
    evaluate,
    join_processes,
    scan,
)

_HEADS = ("dense_head", "cv_sim", "projector")

# What training has learned, and the error that ended it early, if one did.
Outcome = tuple[Learned, BaseException | None]


def pretrain(
    settings: Settings,
    source: ImageSource,
    patients: NDArray[Any] | None,
    *,
    before: Learned | None,
    callbacks: Sequence[Callback],
    fitted: Callable[[Learned], Any],
) -> Outcome:
    """Do the work of `fit`, in each of the processes that train together.

    Parameters
    ----------
    settings : Settings
    source : ImageSource
    patients : ndarray of shape (n,) or None
        Patient of each image.
    before : Learned or None
        What a warm start continues from.
    callbacks : sequence of Callback
        Called after those of `settings`.
    fitted : callable
        Makes a fitted estimator of what was learned so far.
    """
    processes = join_processes(settings.device)
    seed = draw_seed(settings.random_state)
    numbers = numbered(patients, len(source))
    describe = partial(describe_run, settings, source, seed, numbers, before)
    with open_run(settings, source, seed, processes, describe) as run:
        return _train(
            settings,
            source,
            run,
            processes,
            before=before,
            patients=patients,
            held_out=hold_out(numbers, settings.validation_fraction, run.seed),
            callbacks=[*settings.callbacks, *callbacks],
            fitted=fitted,
        )


def pretrain_part(
    settings: Settings,
    source: ImageSource,
    patients: NDArray[Any] | None,
    *,
    before: Learned | None,
    stream: Stream | None,
) -> tuple[Outcome, Stream]:
    """Do the work of `partial_fit`: one pass, as part of a stream that continues or begins.

    `stream` continues if `before` has its weights and `settings` its optimizer; otherwise a new one
    begins.
    """
    processes = join_processes(settings.device)
    if processes.count > 1:
        raise ValueError(
            "partial_fit trains in one process: start the script without torchrun, or use fit"
        )
    weights = None if before is None else before.weights_
    optimizer = settings.optimizer.name, settings.optimizer.ema
    if stream is None or stream.weights is not weights or stream.settings != optimizer:
        stream = Stream(draw_seed(settings.random_state), weights, optimizer)
    # Every part has its own seed.
    passes = np.random.SeedSequence([stream.seed, before.n_epochs_ if before else 0])
    run = Run(int(passes.generate_state(1)[0]), stream.memory, stream.memory.load())
    part = settings if before is None else settings.with_architecture(before._architecture)
    part.epochs = 1
    outcome = _train(
        part, source, run, processes, before=before, patients=patients, schedule=WarmupConstant()
    )
    stream.weights = outcome[0].weights_
    return outcome, stream


def draw_seed(random_state: Any) -> int:
    """Draw the seed of a run."""
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _train(
    settings: Settings,
    source: ImageSource,
    run: Run,
    processes: Processes,
    *,
    before: Learned | None,
    patients: NDArray[Any] | None,
    held_out: NDArray[np.intp] | Sequence[int] = (),
    callbacks: Sequence[Callback] = (),
    fitted: Callable[[Learned], Any] | None = None,
    schedule: WarmupConstant | None = None,
) -> Outcome:
    held_out = np.asarray(held_out, np.intp)
    architecture = settings.architecture()
    random = Randomness(run.seed, processes.device)
    with random.given():
        model = start_model(architecture, settings.weights, before)
    seen = Spreads(len(source))
    found = run.scan or scan(
        processes,
        source,
        settings.image_size,
        held_out=held_out,
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
        refuse_unusable=settings.on_error == "raise",
        progress=settings.verbose > 0,
        note=seen.note,
    )
    seen.values = np.sum(processes.gather(seen.values), axis=0)
    if processes.is_first:
        fate = "They are left out of training."
        warn_unusable(found.unusable, len(source), settings.on_error, fate)
    if before is not None:
        found = found._replace(mean=before.mean_, std=before.std_)
    if processes.is_first:
        whole = "all of them together" if before is None else FITTED
        seen.warn(source, found.mean, found.std, whole)
    usable = np.setdiff1d(np.arange(len(source)), [problem.row for problem in found.unusable])
    rows, rows_kept = sides(usable, held_out)
    training = Selection(source, rows) if len(held_out) else leave_out(source, found.unusable)
    run.keep_scan(found, len(training))
    start = settings.weights if before is None else before
    # All processes end with the same estimator.
    salt = processes.from_first(new_salt)
    known, n_images = getattr(start, "patients_", nobody(salt)), getattr(start, "n_images_", 0)
    if settings.epochs:
        known = note(known, *patients_of(patients, rows, rows_kept), salt=salt)
        n_images = None if n_images is None else n_images + len(training)

    def learned(network: nn.Module, latest: Mapping[str, Sequence[float]]) -> Learned:
        history = joined({} if before is None else before.history_, latest)
        return Learned(
            _architecture=architecture,
            weights_=pack(network.state_dict()),
            mean_=found.mean,
            std_=found.std,
            history_=history,
            skipped_=unusable_table(found.unusable),
            n_epochs_=len(history.get("loss", [])),
            embedding_dim_=model.encoder.last_shape[0],
            encoder_name_=name_of(architecture["encoder"]),
            patients_=known,
            n_images_=n_images,
            n_patients_=count(known),
        )

    def so_far(state: TrainingState) -> Any:
        assert fitted is not None
        return fitted(learned(state.network, state.history))

    draw = Draw(settings.views, found.mean, found.std, run.seed, processes.device)

    def validate(network: nn.Module) -> dict[str, float]:
        terms = evaluate(
            network,
            Selection(source, rows_kept),
            # The seed of every other evaluation, so that losses can be compared.
            replace(draw, seed=0),
            without_read_out(settings.objective),
            size=settings.image_size,
            batch_size=settings.batch_size,
            precision=settings.precision,
            num_workers=settings.num_workers,
        )
        found = {name: terms[name] for name in ("loss", "read_out") if name in terms}
        return {f"validation_{name}": value for name, value in found.items()}

    alarm = [CollapseAlarm(len(training))] if processes.is_first else []
    trainer = Trainer(
        draw=draw,
        objective=settings.objective,
        optimizer=settings.optimizer,
        size=settings.image_size,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        precision=settings.precision,
        accumulate=settings.accumulate,
        schedule=schedule,
        num_workers=settings.num_workers,
        verbose=settings.verbose > 0,
        processes=processes,
        callbacks=[*callbacks, *alarm],
        validate=validate if len(rows_kept) else None,
        fitted=None if fitted is None else so_far,
    )
    history, failure = run.train(trainer, model, training, random)
    return learned(model, history), failure


def start_model(
    architecture: Mapping[str, Any], weights: Any, before: Learned | None
) -> OTCXRModel:
    """Make the network that training starts from.

    Parameters
    ----------
    architecture : dict
    weights : path, fitted estimator or None
        Where a run of its own starts from.
    before : Learned or None
        What training continues from instead.

    Raises
    ------
    ValueError
        The network that the parameters describe no longer fits the weights learned before.
    """
    if before is None:
        start = state_of(weights) if hasattr(weights, "save_encoder") else None
        encoder = weights if start is None else part_of(start, "encoder.backbone")
        model = build_network(architecture, encoder, to_train=True)
        if start is not None:
            _take_heads(model, start)
        return model
    model = build_network(architecture, to_train=True)
    try:
        restore(model, unpack(before.weights_))
    except RuntimeError as error:
        changed = [
            name
            for name, value in _flat(architecture).items()
            if _flat(before._architecture)[name] != value
        ]
        raise ValueError(
            f"the learned weights no longer fit, because {', '.join(changed)} changed since the "
            "last fit; set them back, or start over with warm_start=False"
        ) from error
    return model


def state_of(estimator: Any) -> dict[str, Tensor]:
    """Return the state dict of the network of a fitted estimator."""
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise NotFittedError(
            f"weights= is a {type(estimator).__name__} that is not fitted. clone(), and so "
            "cross-validation, forgets what the estimator in a parameter has learned: pass "
            "sklearn.frozen.FrozenEstimator(pretrainer), or the file that its save_encoder writes"
        ) from error
    return unpack(estimator.weights_)


def _take_heads(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load those heads of another network that have the same shapes."""
    for name in _HEADS:
        head, theirs = model.get_submodule(name), part_of(state, name)
        ours = {key: value.shape for key, value in head.state_dict().items()}
        if ours == {key: value.shape for key, value in theirs.items()}:
            head.load_state_dict(theirs)


def _flat(architecture: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in architecture.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}__{key}": one for key, one in value.items()}
        else:
            flat[name] = value
    return flat


def hold_out(patients: NDArray[np.intp], fraction: float, seed: int) -> NDArray[np.intp]:
    """Draw the share of patients whose images are held out, and return their rows.

    Raises
    ------
    ValueError
        Fewer than two images would be on one of the sides.
    """
    if not fraction:
        return np.empty(0, np.intp)
    splitter = GroupShuffleSplit(1, test_size=float(fraction), random_state=seed)
    try:
        with keeping_filters():
            training, held_out = next(splitter.split(patients, groups=patients))
    except ValueError as error:
        raise ValueError(
            f"validation_fraction={fraction} of {counted(len(np.unique(patients)), 'patient')} "
            "leaves none to train on; lower it, or set it to 0"
        ) from error
    _require_two(training, held_out)
    return np.sort(held_out)


def sides(
    usable: NDArray[np.intp], held_out: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Divide the rows that can be used into those to train on and those held out.

    Raises
    ------
    ValueError
        Some are held out, and fewer than two images are on one of the sides.
    """
    is_held_out = np.isin(usable, held_out)
    if len(held_out):
        _require_two(usable[~is_held_out], usable[is_held_out])
    return usable[~is_held_out], usable[is_held_out]


def patients_of(
    patients: NDArray[Any] | None, training: NDArray[np.intp], held_out: NDArray[np.intp]
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Return the patients of the rows to train on, and of those held out, if they are known."""
    return (None, None) if patients is None else (patients[training], patients[held_out])


def _require_two(training: NDArray[np.intp], held_out: NDArray[np.intp]) -> None:
    if min(len(training), len(held_out)) < 2:
        raise ValueError(
            f"validation_fraction leaves {counted(len(training), 'image')} to train on and "
            f"{len(held_out)} held out, and at least 2 of each are needed; change it, or set it to "
            "0"
        )


def joined(earlier: Mapping[str, Sequence[float]], later: Mapping[str, Sequence[float]]) -> History:
    """Concatenate two histories; NaN where only one of them has a number."""
    lengths = [max(map(len, part.values()), default=0) for part in (earlier, later)]
    return {
        name: [
            number
            for part, length in zip((earlier, later), lengths, strict=True)
            for number in part.get(name, [math.nan] * length)
        ]
        for name in {**earlier, **later}
    }
