"""OTCXRPretrainer: unlabelled chest X-rays -> an encoder -> embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar, Self

from otcxr_sk.estimators._fitting import pretrain
from otcxr_sk.estimators._parameters import CONSTRAINTS
from otcxr_sk.estimators._stream import StreamEstimator
from otcxr_sk.estimators._watching import CallbackSupportMixin, with_callbacks
from otcxr_sk.images._resize import Resize
from otcxr_sk.images._source import DEFAULT_RESIZE
from otcxr_sk.training.callbacks import Callback


class OTCXRPretrainer(CallbackSupportMixin, StreamEstimator):
    r"""Learn an encoder from unlabelled chest X-rays; embed any chest X-ray with it.

    Pre-training follows OTCXR [1]_: two views of an image, one encoder, and optimal transport
    between the two dense feature maps, with variance and covariance regularisation of both,

    .. math:: L = \alpha L_{OT} + \beta [\mathrm{var}(q_s) + \mathrm{var}(q_t)]
        + \eta [\mathrm{cov}(q_s) + \mathrm{cov}(q_t)],

    beside the same three kinds of term on a projection of the pooled map, weighted by
    `global_weight`. The embedding is the pooled map of the encoder. For :math:`L_{OT}`
    see `transport`.

    Parameters
    ----------
    encoder : str or torch.nn.Module, default="resnet18"
        Name of a timm model, or a module that turns float32 images (B, 1, size, size) into a
        dense map (B, C, h, w). A module is copied, never changed.
    weights : path or fitted OTCXRPretrainer, default=None
        What to start from: a local file with weights of the named timm model (``.safetensors``,
        or ``.pth`` of which no code is run), a folder of Hugging Face's with DINOv2's such as
        RAD-DINO, or another pretrainer's encoder, with those of its heads whose shapes are the
        same. None starts at random; nothing is ever downloaded.
    image_size : int, default=224
        Height and width that images are resized to, in pixels. At least the encoder's stride.
    resize : {"squash", "pad", "crop"}, default="squash"
        How an image that is no square becomes one: distorted, filled up with black, or cut to
        its central square.
    epochs : int, default=100
        Passes over the images. 0 leaves the encoder as it is: the baseline to compare with.
    max_time : float, default=None
        Minutes after which no further epoch is begun, earlier parts of a resumed run included. The
        learning rate, which falls over `epochs`, then ends above zero: better lower `epochs` if
        the time is known.
    batch_size : int, default=64
        Images per batch, of all processes together where several train, and per chunk in
        `transform`.
    accumulate : int, default=1
        Batches per step of the optimiser, for steps of more images than fit into memory. Norms of
        batches, variance and covariance see `batch_size` images at a time all the same.
    optimizer : {"adamw", "lars"}, default="adamw"
        LARS is for steps of thousands of images.
    learning_rate : float or "auto", default="auto"
        Peak; linear warm-up, cosine decay. A number is taken as it is. "auto" is 0.002 (LARS: 0.6)
        for steps of 64 images and grows with the square root of their number.
    weight_decay : float, default=0.01
        Not applied to biases and norms.
    clip_norm : float, default=None
        A step whose gradient is longer is made with one of this length.
    ema : float, default=None
        Such as 0.999: keep a running average of the weights over about ``1 / (1 - ema)`` steps, and
        end with the average.
    alpha, beta, eta : float
        Weights of the transport, variance and covariance terms.
    global_weight : float
        Weight of the image-level term; 0 switches it off.
    epsilon : float
        Entropic regularisation of the transport plan; costs lie in [0, 2].
    cv_sim_depth : int, default=0
        Number of CV-SIM blocks between dense head and transport.
    transport : {"inverse", "direct"}, default="inverse"
        What the transport term is: with "inverse" the divergence of the plan from the true one,
        known from where the views were cut, so that tokens learn to find their place; with
        "direct" the cost of the plan, as in the paper.
    match_stride : int, default=16
        Tokens to match come from the encoder's deepest stage of at most this stride in pixels.
    crop_scale : tuple of float, default=(0.5, 1.0)
        Range of the share of an image's area that a view keeps.
    horizontal_flip : float, default=0.0
        Probability that a view is mirrored. The heart is on one side: off by default.
    erase : float, default=0.5
        Largest share of the first view that random rectangles hide; 0 hides nothing. It helped on
        radiographs of pneumonia and hurt on phantoms with small findings.
    image_shape : tuple (height, width), default=None
        Shape of the images in flattened rows. None takes them for squares if the number of
        features is a square number, and for a single row of pixels otherwise.
    channels : {"first", "last"}, default=None
        Place of the channel axis in arrays of four dimensions; only needed if both would fit.
    device : str, default="auto"
        A torch device; "auto" takes CUDA, else MPS, else the CPU. Each of several processes takes
        a GPU of its own.
    precision : {"auto", "bf16", "fp16", "float32"}, default="auto"
        Arithmetic of the encoder; "auto" takes bfloat16 where the device computes it natively.
        "fp16" is for GPUs that do not, and scales gradients.
        Heads, transport and losses are always float32.
    num_workers : int, default=0
        Processes that read images beside each that trains.
    on_error : {"raise", "warn", "nan"}, default="raise"
        What becomes of images that cannot be used. "raise" stops with their names; otherwise
        `fit` leaves them out (`skipped_`) and `transform` gives them rows of NaN
        (`unreadable_`), "warn" with a warning.
    validation_fraction : float, default=0.0
        Share of the patients, told by `groups` in `fit`, whose images are held out of training
        to give ``history_["validation_loss"]``. Without `groups` it is a share of the images, and
        pictures of one patient on both sides make that loss look better than it is.
    callbacks : list of Callback, default=None
        What looks at a run after every epoch, and may end it: `EarlyStopping`, `CSVLogger`,
        `TensorBoardLogger` and your own from `otcxr_sk.training`, `KNNProbe` from
        `otcxr_sk.evaluation`. Called in this order.
    cache_dir : path, default=None
        Folder where decoded and resized images of files are kept, so that each is decoded once.
    cache_gb : float, default=50.0
        Space that they take there at most, in gigabytes; the least recently used give way.
    checkpoint_dir : path, default=None
        Folder where a run is saved as it goes. `fit` goes on with the run that it finds there, and
        refuses one of other parameters or images. A run on the CPU that was interrupted ends with
        the very weights of one that was not.
    checkpoint_every : int or datetime.timedelta, default=1
        Epochs, or time, from one checkpoint to the next.
    warm_start : bool, default=False
        Whether another `fit` goes on from the fitted weights, with their `mean_` and `std_`.
    random_state : int, RandomState instance or None, default=None
        Same seed, same machine, same weights, whatever `num_workers` and `cache_dir`. Global
        generators are left alone.
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
        ``global_invariance``, ``global_variance``, ``global_covariance`` (unweighted);
        ``marginal_error`` (L1, of the plans); ``matching_accuracy`` (share of transported mass
        within one token of its true place) beside ``matching_chance`` (of a uniform plan);
        ``spread`` (in [0, 1]) and ``effective_rank`` of the embeddings; ``learning_rate``;
        ``validation_loss``, if images are held out, by the views of `score`; and what callbacks
        record, NaN where they do not.
    mean_, std_ : float
        Of the pixels of the training images at `image_size`, not of those held out; of the first
        ones, where training went on with others.
    n_epochs_ : int
        Epochs completed.
    skipped_ : list of dict
        ``row``, ``file`` and ``reason`` of every image that `fit` left out.
    unreadable_ : list of dict
        The same for the last `transform`, `transform_dense` or `score` by this object.
    n_features_in_ : int
        Number of columns, if `fit` saw flattened rows.
    weights_ : ndarray of uint8
        All weights in safetensors format.

    Notes
    -----
    What `X` may be, in every method:

    ====================================================  =====================================
    flattened rows (n, height * width)                    see `image_shape`
    images (n, height, width)                             grayscale
    images (n, 1 or 3, h, w) or (n, h, w, 1 or 3)         colour becomes luma, see `channels`
    map-style torch data set, list of PIL images          first member where items are tuples
    list, array or data-frame column of paths             PNG, JPEG, TIFF, NPY, DICOM
    a folder                                              its images by path, see `list_images`
    ====================================================  =====================================

    Files and integers of 8 and 16 bits are scaled to [0, 1]; other numbers are taken as they
    are. Arrays, be they in memory, memory maps, HDF5 data sets or Zarr arrays, are never copied
    whole; files are decoded when needed.

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
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS

    def __init__(
        self,
        encoder: Any = "resnet18",
        *,
        weights: Any = None,
        image_size: int = 224,
        resize: Resize = DEFAULT_RESIZE,
        epochs: int = 100,
        max_time: float | None = None,
        batch_size: int = 64,
        accumulate: int = 1,
        optimizer: str = "adamw",
        learning_rate: float | str = "auto",
        weight_decay: float = 0.01,
        clip_norm: float | None = None,
        ema: float | None = None,
        alpha: float = 1.0,
        beta: float = 2.0,
        eta: float = 0.1,
        global_weight: float = 10.0,
        epsilon: float = 0.1,
        cv_sim_depth: int = 0,
        transport: str = "inverse",
        match_stride: int = 16,
        crop_scale: tuple[float, float] = (0.5, 1.0),
        horizontal_flip: float = 0.0,
        erase: float = 0.5,
        image_shape: tuple[int, int] | None = None,
        channels: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        num_workers: int = 0,
        on_error: str = "raise",
        validation_fraction: float = 0.0,
        callbacks: Sequence[Callback] | None = None,
        cache_dir: Any = None,
        cache_gb: float = 50.0,
        checkpoint_dir: Any = None,
        checkpoint_every: int | timedelta = 1,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.encoder = encoder
        self.weights = weights
        self.image_size = image_size
        self.resize = resize
        self.epochs = epochs
        self.max_time = max_time
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.ema = ema
        self.alpha = alpha
        self.beta = beta
        self.eta = eta
        self.global_weight = global_weight
        self.epsilon = epsilon
        self.cv_sim_depth = cv_sim_depth
        self.transport = transport
        self.match_stride = match_stride
        self.crop_scale = crop_scale
        self.horizontal_flip = horizontal_flip
        self.erase = erase
        self.image_shape = image_shape
        self.channels = channels
        self.device = device
        self.precision = precision
        self.num_workers = num_workers
        self.on_error = on_error
        self.validation_fraction = validation_fraction
        self.callbacks = callbacks
        self.cache_dir = cache_dir
        self.cache_gb = cache_gb
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_every = checkpoint_every
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: Any, y: Any = None, groups: Any = None) -> Self:
        """Pre-train on images without labels.

        Every image is read once before training starts, so that one that cannot be used is
        reported before any time is spent, and to learn `mean_` and `std_`. With `checkpoint_dir`,
        a run found there is continued where it was saved, without that look; one that has ended
        is given back at once. Started by torchrun, all processes train together, each has to be
        given all images, and all end with the same estimator.

        Parameters
        ----------
        X : array-like or sequence of paths
            At least two images; see the class.
        y : ignored
        groups : array-like of shape (n,), default=None
            Patient of each image. Used by `validation_fraction`: no patient is on both sides.

        Returns
        -------
        self : OTCXRPretrainer

        Raises
        ------
        ValueError
            A parameter or an image cannot be used, or `checkpoint_dir` holds another run; the
            message names it, or what differs.
        ImageReadError
            A file cannot be read; a ValueError, too.
        NonFiniteLossError
            The loss became NaN or infinite. The estimator then is as after the last epoch that
            ended well, if there was one.
        KeyboardInterrupt
            After Ctrl-C, when the step under way is done and saved to `checkpoint_dir`. The
            estimator then has the weights of that step. A second Ctrl-C stops at once.

        Warns
        -----
        CheckpointWarning
            A checkpoint could not be written, and training went on, or the newest was damaged.
        CollapseWarning
            The embeddings hardly differ between images, told at the first such epoch after the
            warm-up of the learning rate.
        UnusableImageWarning
            Images were left out, with ``on_error="warn"``.
        """
        self._validate_params()
        pretrain(self, X, y, groups)
        return self
