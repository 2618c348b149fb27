"""OTCXRPretrainer: unlabeled chest X-rays to an encoder, any chest X-ray to an embedding."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from copy import copy
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Bunch, Tags
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from otcxr_sk._ordinary import ordinary
from otcxr_sk._version import __version__
from otcxr_sk._warning import warn_user
from otcxr_sk.estimators._embed import embed
from otcxr_sk.estimators._encoder import FittedEncoder
from otcxr_sk.estimators._estimator import ImageEstimator
from otcxr_sk.estimators._fit import Outcome, draw_seed, pretrain, pretrain_part
from otcxr_sk.estimators._inputs import check_groups, check_images, take_features
from otcxr_sk.estimators._matching import match_images, match_views
from otcxr_sk.estimators._parameters import (
    CONSTRAINTS,
    GROUPS,
    ON_ERROR,
    Settings,
    check_group,
    check_settings,
)
from otcxr_sk.estimators._sklearn_callbacks import (
    CallbackSupportMixin,
    SklearnCallbacks,
    with_callbacks,
)
from otcxr_sk.estimators._state import Learned, Unsaved
from otcxr_sk.estimators.sharing import ModelFolder, load_pretrainer
from otcxr_sk.images import (
    DEFAULT_RESIZE,
    FITTED,
    ImageCache,
    ImageSource,
    Resize,
    Spreads,
    leave_out,
    unusable_table,
    warn_unusable,
)
from otcxr_sk.method import (
    DenseEncoder,
    Objective,
    OTCXRModel,
    Views,
    without_read_out,
)
from otcxr_sk.training import (
    Callback,
    Optimizer,
    evaluate,
    explained_memory,
)

# Format of pickles. Those of version 0.1 name none.
_STATE_FORMAT = 2


class OTCXRPretrainer(
    CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, ImageEstimator
):
    r"""Learn an encoder from unlabeled chest X-rays; embed any chest X-ray with it.

    Pre-training follows OTCXR [1]_: two views of an image, one encoder, and optimal transport
    between the two dense feature maps, with variance and covariance regularization. What is
    minimized is described by `Objective`. The embedding is the mean of the encoder's last map, or a
    transformer's class token.

    Parameters
    ----------
    encoder : str or torch.nn.Module, default="resnet18"
        Name of a timm model, or a module that turns float32 images (B, 1, size, size) into a
        dense map (B, C, h, w). A module is copied, never changed.
    weights : path or fitted OTCXRPretrainer, default=None
        Where training starts. A local file with weights of the named timm model
        (``.safetensors``, or ``.pth``, from which no code is run); a Hugging Face folder of a
        DINOv2 or ViT, such as RAD-DINO; or another pretrainer, whose encoder is taken and those
        of its heads that have the same shapes. None starts at random. Nothing is ever downloaded.
    image_size : int, default=224
        Height and width that images are resized to, in pixels. At least the encoder's stride.
    resize : {"squash", "pad", "crop"}, default="squash"
        How an image that is not square becomes square: distorted, padded with black, or cut to
        its central square.
    epochs : int, default=100
        Passes over the images. 0 leaves the encoder as it is, as a baseline.
    batch_size : int, default=64
        Images per batch, all processes together, and images that `transform` encodes at a time.
    accumulate : int, default=1
        Batches per optimizer step, for steps of more images than fit into memory. Batch norm,
        variance and covariance still see `batch_size` images at a time.
    learning_rate : float or "auto", default="auto"
        Peak of the learning rate, after a linear warm-up and before a cosine decay to zero. "auto"
        is 0.002 (LARS: 0.6) for steps of 64 images and grows with the square root of their number.
    optimizer : {"adamw", "lars"} or Optimizer, default="adamw"
        An `Optimizer` also sets weight decay, gradient clipping and a running average of the
        weights.
    views : Views, default=None
        How the two views are drawn: crops, flips, hidden parts. None is ``Views()``.
    objective : Objective, default=None
        The loss: weights of its terms, and how tokens are matched. None is ``Objective()``.
    match_stride : int, default=16
        The tokens to match come from the deepest stage of the encoder whose stride is at most
        this, in pixels.
    pooling : {"mean", "token"}, default="mean"
        What an image is embedded as, in training, too: the mean over the places of the encoder's
        last map, or its class token, which only transformers have, as the authors of DINOv2 and
        RAD-DINO embed.
    image_shape : tuple (height, width), default=None
        Shape of the images in flattened rows. None takes them for square images if the number of
        features is a square number, and for a single row of pixels otherwise. After a fit on
        images it is needed for flattened rows, which may otherwise be one image.
    device : str, default="auto"
        A torch device. "auto" takes CUDA, else MPS, else the CPU. Where several processes train,
        each takes a GPU of its own.
    precision : {"auto", "bfloat16", "float16", "float32"}, default="auto"
        Arithmetic of the encoder. "auto" takes bfloat16 where the device computes it natively,
        and float32 elsewhere. "float16" is for GPUs without bfloat16, and scales gradients.
        Heads, transport and losses are always float32.
    num_workers : int or "auto", default="auto"
        Processes that read images, for each process that trains; 0 reads in this one. "auto" is 0,
        but for files on a GPU the number of processors, up to 16, shared by the processes that
        train on one machine.
    on_error : {"raise", "warn", "nan"}, default="raise"
        What happens to images that cannot be used. "raise" stops with their names. Otherwise
        `fit` leaves them out (`skipped_`) and `transform` returns rows of NaN for them
        (`last_unusable`), "warn" with a warning. Most classifiers refuse NaN, and no step of a
        Pipeline can leave out rows: embed first, then pass on ``np.isfinite(Z).all(axis=1)``.
    validation_fraction : float, default=0.0
        Share of the patients (`groups` in `fit`) whose images are held out of training to compute
        ``history_["validation_loss"]``. Without `groups` it is a share of the images: a patient
        with images on both sides then makes that loss look better than it is.
    callbacks : list of Callback, default=None
        Called after every epoch, in this order; they may end the run. See `EarlyStopping`,
        `TimeLimit`, `CSVLogger`, `TensorBoardLogger` and `Callback` in `otcxr_sk.training`, and
        `KNNProbe` in `otcxr_sk.evaluation`.
    cache : path or Cache, default=None
        Folder that keeps decoded and resized images, so that each file is decoded once.
    checkpoint : path or Checkpoint, default=None
        Folder that a run is saved to as it goes. `fit` goes on with the run that it finds there
        and refuses one of other parameters or images, such as that of another fold of a
        cross-validation, which takes None. On the CPU, a run that was interrupted ends
        with the very weights of one that was not.
    warm_start : bool, default=False
        Whether another `fit` goes on from the fitted weights, with their `mean_` and `std_`.
    random_state : int, RandomState instance or None, default=None
        Same seed, same machine, same weights, whatever `num_workers`. Global generators are left
        alone.
    verbose : int, default=0
        Positive shows progress bars.

    Attributes
    ----------
    embedding_dim_ : int
        Width of the embedding.
    encoder_name_ : str
        timm name or class name of the encoder.
    history_ : dict of str to list of float
        Per epoch: ``loss`` and its terms ``transport``, ``variance``, ``covariance``,
        ``global_invariance``, ``global_variance``, ``global_covariance``, ``read_out``
        (unweighted); ``token_spread`` (in [0, 1]) of the tokens that are read out;
        ``marginal_error`` (L1, of the plans); ``matching_accuracy`` (share of transported mass
        within one token of its true place) and ``matching_chance`` (the same for a uniform plan);
        ``spread`` (in [0, 1]) and ``effective_rank`` of the embeddings; ``learning_rate``;
        ``validation_loss`` and ``validation_read_out`` if images are held out, on the same views
        as `score`; and what callbacks record, NaN where they do not.
    last_unusable : list of dict
        ``row``, ``file`` and ``reason`` of every image that the last `transform`,
        `transform_dense` or `score` of this object could not use.
    mean_, std_ : float
        Of the pixels of the training images at `image_size`, without those held out. Where
        training went on with other images, of the first ones.
    n_epochs_ : int
        Epochs completed.
    n_features_in_ : int
        Number of columns, if `fit` saw flattened rows.
    n_images_ : int
        Images that training learned from, of all calls that it went on in; 0 without epochs.
    n_patients_ : int or None
        Patients of these images; None if some of them came without `groups`.
    patients_ : dict or None
        Whom `seen` tells: ``trained`` and ``held_out``, sorted digests (uint64) of patients under
        a random ``salt``, and whether they are ``complete``, which they are not if some of the
        training, as by `partial_fit` or of a pretrainer in `weights`, was without `groups`. None
        if all was. It names nobody, but whoever has it can test ids that they
        guess, such as numbers of few digits: see `forget_patients`. The salt is not drawn from
        `random_state`.
    skipped_ : list of dict
        ``row``, ``file`` and ``reason`` of every image that `fit` left out. Copies and saved
        estimators do not name the files.
    weights_ : ndarray of uint8
        All weights in safetensors format.

    See Also
    --------
    Views, Objective, Optimizer, Cache, Checkpoint : Groups of parameters.
    otcxr_sk.evaluation.linear_probe : How good an embedding is for a task, by patient.
    otcxr_sk.datasets.load_labelled : Your own images with labels and patients.
    otcxr_sk.plotting.MatchingDisplay : What was matched with what.

    Notes
    -----
    What `X` may be, in every method:

    ====================================================  =====================================
    flattened rows (n, height * width)                    see `image_shape`
    images (n, height, width)                             grayscale
    images (n, 1 or 3, h, w) or (n, h, w, 1 or 3)         color becomes luma
    list of PIL images, arrays or tensors                 of any sizes
    data set of torch or Hugging Face                     its only images, or "image"
    list, array or column of paths                        PNG, JPEG, TIFF, NPY, DICOM
    a folder                                              its images by path, see `list_images`
    ====================================================  =====================================

    Files and integers of 8 and 16 bits are scaled to [0, 1]; other numbers are taken as they are,
    and an `ImageRangeWarning` tells of images far outside the range that `fit` saw. Arrays may lie
    in memory, in memory maps, HDF5 data sets or Zarr arrays, and are never copied as a whole;
    files are decoded when needed. One image is passed as ``X[np.newaxis]`` or ``[path]``.

    Patients must not be shared by training and test images: pass patient ids as ``groups`` to
    scikit-learn's splitters.

    References
    ----------
    .. [1] V. Gorade, A. Singh, D. Mishra, "OTCXR: Rethinking Self-supervised Alignment using
       Optimal Transport for Chest X-ray Analysis", WACV 2025, pp. 7143-7152, arXiv:2404.11868.

    Examples
    --------
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> images = make_chest_phantoms(4, image_size=32, random_state=0).images
    >>> enc = OTCXRPretrainer("resnet10t", image_size=32, epochs=1, random_state=0)
    >>> enc.fit_transform(images).shape
    (8, 512)

    Unlabeled images first, then a classifier on the embedding, in one Pipeline that is
    cross-validated by patient:

    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GroupKFold, cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> data = make_chest_phantoms(12, image_size=32, random_state=0)
    >>> pipe = make_pipeline(enc, LogisticRegression(C=0.01))
    >>> sick = data.labels.any(axis=1)
    >>> len(cross_val_score(pipe, data.images, sick, groups=data.groups, cv=GroupKFold(2)))
    2
    """

    weights_: NDArray[np.uint8]
    mean_: float
    std_: float
    n_epochs_: int
    embedding_dim_: int
    encoder_name_: str

    _architecture: dict[str, Any]
    _kind: ClassVar[str] = "OTCXRPretrainer"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS

    # Metadata routing has no use for a place where the result goes.
    __metadata_request__transform: ClassVar[dict[str, str]] = {"out": UNUSED}

    def __init__(
        self,
        encoder: Any = "resnet18",
        *,
        weights: Any = None,
        image_size: int = 224,
        resize: Resize = DEFAULT_RESIZE,
        epochs: int = 100,
        batch_size: int = 64,
        accumulate: int = 1,
        learning_rate: float | str = "auto",
        optimizer: str | Optimizer = "adamw",
        views: Views | None = None,
        objective: Objective | None = None,
        match_stride: int = 16,
        pooling: str = "mean",
        image_shape: tuple[int, int] | None = None,
        device: str = "auto",
        precision: str = "auto",
        num_workers: int | str = "auto",
        on_error: str = "raise",
        validation_fraction: float = 0.0,
        callbacks: Sequence[Callback] | None = None,
        cache: Any = None,
        checkpoint: Any = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.encoder = encoder
        self.weights = weights
        self.image_size = image_size
        self.resize = resize
        self.epochs = epochs
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.views = views
        self.objective = objective
        self.match_stride = match_stride
        self.pooling = pooling
        self.image_shape = image_shape
        self.device = device
        self.precision = precision
        self.num_workers = num_workers
        self.on_error = on_error
        self.validation_fraction = validation_fraction
        self.callbacks = callbacks
        self.cache = cache
        self.checkpoint = checkpoint
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: Any, y: Any = None, groups: Any = None) -> Self:
        """Pre-train on images without labels.

        Every image is read once before training starts: to report those that cannot be used before
        any time is spent, and to compute `mean_` and `std_`. With `checkpoint`, a run found there
        goes on from where it was saved, without that first reading; a run that has ended is
        returned at once. Under torchrun all processes train together: each has to be given all
        images, and all end with the same estimator.

        Parameters
        ----------
        X : array-like or sequence of paths
            At least two images; see the notes of the class.
        y : ignored
        groups : array-like of shape (n,), default=None
            Patient of each image, none missing. `validation_fraction` puts none on both sides, and
            `seen` can tell later who was trained on.

        Returns
        -------
        self : OTCXRPretrainer

        Raises
        ------
        ValueError
            A parameter or an image cannot be used, or the checkpoint folder holds another run; the
            message names it, or what differs.
        ImageReadError
            A file cannot be read. It is a ValueError, too.
        NonFiniteLossError
            The loss became NaN or infinite. The estimator then is as after the last epoch that
            ended well, if there was one.
        MemoryError
            The device has too little memory, here as in every method that uses it; the message
            says what to lower.
        TrainingInterrupted
            After Ctrl-C, a KeyboardInterrupt: once the current step is done and saved to
            `checkpoint`. The estimator then has the weights of that step. A second Ctrl-C stops at
            once.

        Warns
        -----
        CheckpointWarning
            A checkpoint could not be written and training went on, or the newest was damaged.
        CollapseWarning
            The embeddings hardly differ between images, or the tokens within one, at the first
            such epoch after the warm-up of the learning rate.
        ImageRangeWarning
            Some images have values unlike all of them together.
        UnusableImageWarning
            Images were left out, with ``on_error="warn"``.
        """
        with self._unsaved.training, ordinary(), self._within_memory():
            settings = self._settings()
            # Features of X are those of this object once it has learned from X.
            twin = copy(self)
            source = twin._source(X, fitting=True)
            patients = check_groups(groups, len(source))
            outcome = pretrain(
                settings,
                source,
                patients,
                before=self._learned() if self.warm_start else None,
                callbacks=SklearnCallbacks.of(self, X, y),
                fitted=twin._copy,
            )
            take_features(self, twin)
            return self._end(outcome)

    def partial_fit(self, X: Any, y: Any = None, groups: Any = None) -> Self:
        """Train on some more images, each once, going on from the call before.

        The learning rate rises for 40 steps and then stays at its peak. The optimizer's state is
        kept from call to call for as long as this object lives. It is not pickled: a copy begins
        it anew from the weights, and so does the first call after `fit`. `mean_`, `std_`, the
        network, the views and the objective are those of the first call, or of `fit`. `epochs`,
        `checkpoint`, `callbacks` and `validation_fraction` play no part.

        Parameters
        ----------
        X : array-like or sequence of paths
            At least two images; see the notes of the class. They are read once before they are
            trained on, as by `fit`.
        y : ignored
        groups : array-like of shape (n,), default=None
            Patient of each image, none missing, for `seen`.

        Returns
        -------
        self : OTCXRPretrainer
            `history_` and `n_epochs_` count every call as an epoch; `skipped_` is of the last.

        Raises
        ------
        ValueError, ImageReadError, NonFiniteLossError
            As by `fit`. The estimator then is as before the call.
        TrainingInterrupted
            After Ctrl-C, once the current step is done; the estimator has its weights.

        Warns
        -----
        CollapseWarning, UnusableImageWarning
            As by `fit`.
        ImageRangeWarning
            Images have values unlike those of the first call, or of `fit`.
        """
        with self._unsaved.training, ordinary(), self._within_memory():
            settings, before = self._settings(), self._learned()
            twin = copy(self)
            source = twin._source(X, fitting=before is None, least=2)
            patients = check_groups(groups, len(source))
            outcome, stream = pretrain_part(
                settings, source, patients, before=before, stream=self._unsaved.stream
            )
            take_features(self, twin)
            self._unsaved.stream = stream
            return self._end(outcome)

    def transform(self, X: Any, *, out: Any = None) -> NDArray[np.float32]:
        """Embed images, a batch at a time, or with the workers of `joblib.parallel_config`.

        Parameters
        ----------
        X : array-like or sequence of paths
            Of any kind that the class takes, not only the one that `fit` saw; for flattened rows
            see `image_shape`.
        out : path or ndarray of float32, default=None
            Where to put an embedding that does not fit into memory: a ``.npy`` file, which
            appears only once it is complete, or an array to fill.

        Returns
        -------
        embedding : ndarray of shape (n, n_features), float32
            Mean over the places of the encoder's last dense map, or its class token, see `pooling`.
            NaN for an image that cannot be used, unless `on_error` is "raise". With `out`, that
            array, or the file as a read-only memory map.

        Warns
        -----
        ImageRangeWarning
            Images have values unlike those that `fit` saw.
        UnusableImageWarning
            Images cannot be used, with ``on_error="warn"``.

        See Also
        --------
        transform_dense : A vector for every place.
        otcxr_sk.evaluation.embedding_health : Whether the embedding uses its space.
        """
        return self._embed(X, dense=False, out=out)

    def transform_dense(self, X: Any, *, out: Any = None) -> NDArray[np.float32]:
        """Embed images place by place.

        Parameters
        ----------
        X : array-like or sequence of paths
        out : path or ndarray of float32, default=None
            As in `transform`.

        Returns
        -------
        embedding : ndarray of shape (n, h, w, n_features), float32
            The encoder's last dense map, whatever `pooling`; its mean over h and w is what
            `transform` returns by default. NaN as there.
        """
        return self._embed(X, dense=True, out=out)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the negative loss on images: higher is better, no labels needed.

        The views are the same in every call. Scores can be compared between estimators whose
        objectives have the same weights, and which have the same `batch_size`: variance and
        covariance are those of a batch.

        Parameters
        ----------
        X : array-like or sequence of paths
            At least two images, held out from `fit` if the score is to mean anything. Those that
            cannot be used are left out, unless `on_error` is "raise"; they are found by reading
            all images beforehand.
        y : ignored

        Returns
        -------
        score : float

        Raises
        ------
        NonFiniteLossError
            The loss is NaN or infinite.
        """
        with ordinary(), self._within_memory():
            encoder = self._encoder()
            source = self._usable(self._source(X, fitting=False, least=2), encoder)
            seen = Spreads(len(source))
            loss = evaluate(
                self._model(encoder),
                source,
                encoder.draw(seed=0),
                without_read_out(Objective(**encoder.architecture["objective"])),
                size=encoder.architecture["image_size"],
                batch_size=self.batch_size,
                precision=self.precision,
                num_workers=self.num_workers,
                note=seen.note,
            )["loss"]
            seen.warn(source, encoder.mean, encoder.std, FITTED)
            return -loss

    def match(self, X: Any, *, random_state: Any = None) -> Bunch:
        """Draw two views of every image and transport the tokens of one to the other.

        Views are drawn as in training, but nothing is hidden (`erase` is 0).

        Parameters
        ----------
        X : array-like or sequence of paths
            A few images: they are one batch. One that cannot be used is an error.
        random_state : int, RandomState instance or None, default=None
            Draws the views.

        Returns
        -------
        matching : Bunch
            ``views`` (n, 2, size, size), float32, standardized; ``affine`` (n, 2, 2, 3), from the
            normalized coordinates of each view to those of its image (see `Views`); ``plan``
            (n, N, N), transport plans from tokens of the first view (rows) to those of the second,
            each summing to 1; ``grid`` (rows, columns) of the N tokens; ``accuracy`` and
            ``chance``, as ``matching_accuracy`` and ``matching_chance`` in `history_`.

        Raises
        ------
        NonFiniteLossError
            The cost of transport, and so the plan, has NaN.

        See Also
        --------
        otcxr_sk.plotting.MatchingDisplay : The same as a figure.

        Examples
        --------
        >>> from otcxr_sk import OTCXRPretrainer
        >>> from otcxr_sk.datasets import make_chest_phantoms
        >>> images = make_chest_phantoms(2, image_size=32, random_state=0).images
        >>> enc = OTCXRPretrainer("resnet10t", image_size=32, epochs=0, random_state=0)
        >>> found = enc.fit(images).match(images, random_state=0)
        >>> found.grid, found.plan.shape, round(float(found.plan[0].sum()), 3)
        ((2, 2), (4, 4, 4), 1.0)
        """
        with ordinary():
            encoder = self._encoder()
            source = self._source(X, fitting=False)
            return match_views(encoder, self._model(encoder), source, draw_seed(random_state))

    def match_pairs(self, X: Any, Y: Any) -> Bunch:
        """Transport the tokens of images to those of other images, such as another patient's.

        The images are taken whole, and every token has the same mass. Which region of one patient
        belongs to which of another is not known, so there is no accuracy.

        Parameters
        ----------
        X, Y : array-like or sequence of paths
            A few images, and as many others: they are one batch. One that cannot be used is an
            error.

        Returns
        -------
        matching : Bunch
            ``views``, ``affine``, ``plan`` and ``grid`` as `match` returns them. The views are the
            whole images, row by row: first that of `X`, then that of `Y`.

        Raises
        ------
        ValueError
            There are more images of one than of the other.
        NonFiniteLossError
            The cost of transport, and so the plan, has NaN.

        See Also
        --------
        otcxr_sk.plotting.TransportDisplay : The same as a figure.

        Examples
        --------
        >>> from otcxr_sk import OTCXRPretrainer
        >>> from otcxr_sk.datasets import make_chest_phantoms
        >>> images = make_chest_phantoms(2, image_size=32, random_state=0).images
        >>> enc = OTCXRPretrainer("resnet10t", image_size=32, epochs=0, random_state=0)
        >>> found = enc.fit(images).match_pairs(images[:1], images[2:3])
        >>> found.grid, found.plan.sum(2).round(3).tolist()
        ((2, 2), [[0.25, 0.25, 0.25, 0.25]])
        """
        with ordinary():
            encoder = self._encoder()
            sources = [self._source(images, fitting=False) for images in (X, Y)]
            return match_images(encoder, self._model(encoder), *sources)

    def to_torch(self) -> DenseEncoder:
        """Return a copy of the encoder as a torch module.

        Returns
        -------
        encoder : torch.nn.Module
            In eval mode, on the CPU. It takes images (B, 1, `image_size`, `image_size`), float32,
            standardized: ``(images - mean_) / std_``. It returns two dense maps, the one that
            transport matches and the last, (B, C, h, w), and the embedding, (B, C).
            `encoder.backbone` is timm's model, or your module.

        Examples
        --------
        >>> import torch
        >>> from otcxr_sk import OTCXRPretrainer
        >>> from otcxr_sk.datasets import make_chest_phantoms
        >>> images = make_chest_phantoms(4, image_size=32, random_state=0).images
        >>> enc = OTCXRPretrainer("resnet10t", image_size=32, epochs=0, random_state=0)
        >>> module = enc.fit(images).to_torch()
        >>> _, last, embedding = module((torch.rand(2, 1, 32, 32) - enc.mean_) / enc.std_)
        >>> embedding.shape
        torch.Size([2, 512])
        """
        with ordinary():
            return self._encoder().load().encoder

    def save_encoder(self, path: Any) -> None:
        """Write the encoder to a file for timm, torch and `weights`, without pickle.

        Parameters
        ----------
        path : path
            A ``.safetensors`` file; an existing one is replaced. It holds the encoder's state dict
            under its own names, which are timm's. Its metadata, all text, are ``encoder``,
            ``image_size`` (pixels), ``resize``, ``pooling``, ``mean`` and ``std`` (by which images
            in [0, 1] are standardized) and ``otcxr_sk_version``. The heads are left out.

        Raises
        ------
        ValueError
            `path` has another suffix, or its folder does not exist.

        Examples
        --------
        The file in a plain timm model, for images of one channel (transformers also take
        ``img_size``)::

            timm.create_model("resnet18", in_chans=1, num_classes=0, checkpoint_path=path)
        """
        self._encoder().save(path)

    @property
    def last_unusable(self) -> list[dict[str, Any]]:
        """Row, file and reason of what the last `transform` or `score` could not use.

        Kept for as long as this object lives, never saved.
        """
        found = self._unsaved.unusable
        if found is None:
            raise AttributeError("last_unusable is there after transform, transform_dense or score")
        return found

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "weights_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.embedding_dim_

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "_otcxr_sk_version": __version__}
        state.pop("_beside", None)
        return {**state, "_otcxr_sk_format": _STATE_FORMAT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        written = state.pop("_otcxr_sk_version", "unknown")
        if state.pop("_otcxr_sk_format", None) != _STATE_FORMAT:
            advice = "create it anew"
            if "weights_" in state:
                advice = (
                    "load it with that version, write its encoder with save_encoder, and pass that "
                    "file here as weights=, with epochs=0"
                )
            raise ValueError(
                f"this {type(self).__name__} was saved by otcxr-sk {written}, and {__version__} "
                f"cannot read it: {advice}"
            )
        if written != __version__ and "weights_" in state:
            warn_user(
                f"this {type(self).__name__} was saved by otcxr-sk {written} and is loaded by "
                f"{__version__}; its embeddings may differ",
            )
        if "weights_" in state:
            # Earlier versions kept none.
            state = {"patients_": None, "n_images_": None, "n_patients_": None, **state}
            kept = state["_architecture"]
            state["_architecture"] = {**kept, "pooling": kept.get("pooling", "mean")}
        state.setdefault("pooling", "mean")
        super().__setstate__(state)
        # As in `_take`: using the estimator must add no attribute.
        _ = self._unsaved

    @property
    def _unsaved(self) -> Unsaved:
        """State of this object that no pickle and no copy has."""
        # In one step, because threads may share this object.
        return self.__dict__.setdefault("_beside", Unsaved())

    def _settings(self) -> Settings:
        self._validate_params()
        if self.weights is self:
            raise ValueError("weights is this estimator itself; use warm_start to continue from it")
        return check_settings(self.get_params(deep=False))

    def _source(
        self, X: Any, *, fitting: bool, least: int | None = None, asked_by: Any = None
    ) -> ImageSource:
        """Recognize `X`, whose features are those that this estimator knows, or `asked_by`."""
        # Parameters may have been set since `fit` checked them.
        if self.on_error not in ON_ERROR:
            raise ValueError(f"on_error must be one of {ON_ERROR}, got {self.on_error!r}")
        if not isinstance(self.batch_size, Integral) or self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more images, got {self.batch_size!r}")
        cache = check_group("cache", self.cache)
        return check_images(
            X,
            self if asked_by is None else asked_by,
            image_shape=self.image_shape,
            fitting=fitting,
            least=least,
            resize=self.resize if fitting else self._architecture["resize"],
            allow_unusable=self.on_error != "raise",
            cache=None
            if cache is None
            else ImageCache(cache.folder, int(cache.max_gb * 1e9), shared=cache.shared),
        )

    def _usable(self, source: ImageSource, encoder: FittedEncoder) -> ImageSource:
        """Leave out of `source` what `transform` would embed as NaN."""
        problems = encoder.unusable(source, self.num_workers)
        fate = "They are left out of the score."
        warn_unusable(problems, len(source), self.on_error, fate)
        self._unsaved.unusable = unusable_table(problems)
        return leave_out(source, problems)

    def _embed(self, X: Any, *, dense: bool, out: Any, asked_by: Any = None) -> NDArray[np.float32]:
        with ordinary(), self._within_memory():
            encoder = self._encoder()
            source = self._source(X, fitting=False, asked_by=asked_by)
            embedding, problems = embed(
                encoder,
                self._model(encoder),
                source,
                dense=dense,
                out=out,
                num_workers=self.num_workers,
                progress=self.verbose > 0,
            )
            self._unsaved.unusable = unusable_table(problems)
            return embedding

    def _encoder(self) -> FittedEncoder:
        check_is_fitted(self)
        # Another thread may take what it has learned meanwhile.
        learned = vars(self).copy()
        return FittedEncoder(
            architecture=learned["_architecture"],
            weights=learned["weights_"],
            mean=learned["mean_"],
            std=learned["std_"],
            device=self.device,
            precision=self.precision,
            batch_size=self.batch_size,
            on_error=self.on_error,
        )

    def _within_memory(self) -> AbstractContextManager[None]:
        return explained_memory(
            f"lower batch_size, which is {self.batch_size} (in training, raise accumulate by as "
            "much, and a step has as many images as before), or image_size, or take a smaller "
            "encoder; other programs may use the same memory"
        )

    def _model(self, encoder: FittedEncoder) -> OTCXRModel:
        """The network of an encoder, built once for as long as this object has its weights."""
        kept = self._unsaved.network
        if kept is None or kept[0] is not encoder.weights:
            kept = self._unsaved.network = encoder.weights, encoder.load()
        return kept[1]

    @classmethod
    def _from_folder(cls, folder: ModelFolder) -> Self:
        return load_pretrainer(cls, folder)[0]

    def _learned(self) -> Learned | None:
        return Learned.by(self) if hasattr(self, "weights_") else None

    def _take(self, learned: Learned) -> Self:
        self.__dict__.update(vars(learned))
        # Created here, because methods must not add attributes.
        _ = self._unsaved
        return self

    def _copy(self, learned: Learned) -> Self:
        """Return a fitted copy that shares no group of parameters with this object."""
        twin = copy(self)
        for name in GROUPS:
            setattr(twin, name, copy(getattr(self, name)))
        return twin._take(learned)

    def _end(self, outcome: Outcome) -> Self:
        """Take what was learned, then raise the error that ended training early, if one did."""
        learned, failure = outcome
        self._take(learned)
        if failure is not None:
            raise failure
        return self
