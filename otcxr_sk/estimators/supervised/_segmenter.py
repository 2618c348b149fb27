"""OTCXRSegmenter: a few annotated chest X-rays to masks of lungs or lesions."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn.functional import interpolate

from otcxr_sk._ordinary import ordinary
from otcxr_sk._quote import counted
from otcxr_sk.estimators._encoder import FittedEncoder
from otcxr_sk.estimators._pretrainer import OTCXRPretrainer
from otcxr_sk.estimators._state import Weights, pack, unpack
from otcxr_sk.estimators.sharing import refuse, require_count
from otcxr_sk.estimators.supervised._base import Supervised
from otcxr_sk.estimators.supervised._pyramid import Segmentation, SegmentingNetwork, dice
from otcxr_sk.estimators.supervised._training import Task, outputs
from otcxr_sk.images import (
    FITTED,
    ImageSource,
    Spreads,
    Unusable,
    as_source,
    unusable_table,
    warn_unusable,
)
from otcxr_sk.method import DenseEncoder
from otcxr_sk.training import Randomness

# A folder of a few bytes must not ask for all memory.
_LARGEST_MASK, _MOST_STRUCTURES = 2**14, 2**12

# Masks (n, k, H, W), and whether they came without the axis of structures.
Masks = tuple[NDArray[np.bool_], bool]


class OTCXRSegmenter(Supervised):
    """Find structures in chest X-rays, such as lungs or lesions, from a few annotated ones.

    A small feature pyramid [1]_ on the maps of the encoder tells for every pixel whether it belongs
    to each structure. It is trained with the encoder, or alone if that is `frozen`, by Dice and
    cross-entropy.

    Parameters
    ----------
    pretrainer, batch_size, layer_decay, optimizer, checkpoint, random_state, verbose
        As in `OTCXRClassifier`.
    frozen : bool, default=False
        Whether the encoder stays as it is.
    epochs : int or "auto", default="auto"
        Passes over the annotated images, as in `OTCXRClassifier`.
    learning_rate : float or "auto", default="auto"
        Peak of the learning rate of the pyramid, as in `OTCXRClassifier`.
    views : Views, default=None
        How images and their masks are varied, as in `OTCXRClassifier`.
    validation_fraction : float, default=0.0
        Share of the patients (`groups` in `fit`) whose images are held out to compute
        ``history_["validation_loss"]`` and ``history_["validation_dice"]``.
    callbacks : list of Callback, default=None
        As in `OTCXRPretrainer`: ``EarlyStopping("validation_dice")`` keeps the best weights.

    Attributes
    ----------
    head_weights_ : ndarray of uint8
        Weights of the pyramid in safetensors format.
    history_ : dict of str to list of float
        Per epoch.
    mask_shape_ : tuple of int
        (H, W) of the masks.
    n_features_in_ : int
        Number of columns, if `fit` saw flattened rows.
    n_images_, n_patients_, patients_
        As in `OTCXRClassifier`.
    n_structures_ : int or None
        Number of masks of each image; None if `fit` got one without an axis for it.
    pretrainer_ : OTCXRPretrainer
        The fine-tuned encoder.
    skipped_ : list of dict
        ``row``, ``file`` and ``reason`` of the images that `fit` left out.

    References
    ----------
    .. [1] T.-Y. Lin, P. Dollar, R. Girshick, K. He, B. Hariharan, S. Belongie, "Feature pyramid
       networks for object detection", CVPR 2017.

    Examples
    --------
    >>> from otcxr_sk import OTCXRPretrainer, OTCXRSegmenter
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> data = make_chest_phantoms(6, image_size=32, random_state=0)
    >>> encoder = OTCXRPretrainer("resnet10t", image_size=32, epochs=0, random_state=0)
    >>> segmenter = OTCXRSegmenter(encoder, epochs=1, random_state=0)
    >>> segmenter.fit(data.images, data.lung_masks).predict(data.images[:2]).shape
    (2, 32, 32)
    """

    head_weights_: Weights
    mask_shape_: tuple[int, int]
    n_structures_: int | None

    _kind: ClassVar[str] = "OTCXRSegmenter"
    _learns: ClassVar[tuple[str, ...]] = ("mask_shape", "n_structures")

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Fit the segmenter.

        Parameters
        ----------
        X : array-like or sequence of paths
        y : array-like of shape (n, H, W) or (n, k, H, W)
            Masks of 0 and 1, or False and True, of one structure or of k, which may overlap. If
            they are not square, images have to be resized by squashing.
        groups : array-like of shape (n,), default=None
            Patient of each image, none missing, for `validation_fraction` and `seen`.

        Returns
        -------
        self : OTCXRSegmenter

        Raises
        ------
        ValueError
            A parameter, a mask or an image cannot be used.
        NonFiniteLossError, TrainingInterrupted
            As by ``OTCXRPretrainer.fit``.
        """
        with ordinary():
            return self._fit(X, y, groups)

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Return for every pixel the probability that it belongs to each structure.

        Parameters
        ----------
        X : array-like or sequence of paths

        Returns
        -------
        probabilities : ndarray of shape (n, H, W) or (n, k, H, W), float32
            As `fit` got masks. NaN for images that cannot be used, if `on_error` of the pretrainer
            allows them.
        """
        return self._told(X, lambda scores: scores.sigmoid().numpy(), np.float32(np.nan))

    def predict(self, X: Any) -> NDArray[np.bool_]:
        """Return the masks.

        Parameters
        ----------
        X : array-like or sequence of paths

        Returns
        -------
        masks : ndarray of bool, shape (n, H, W) or (n, k, H, W)
            Empty for images that cannot be used.
        """
        return self._told(X, lambda scores: (scores > 0).numpy(), False)

    def score(self, X: Any, y: Any) -> float:
        """Return the mean Dice coefficient over images and structures.

        Parameters
        ----------
        X : array-like or sequence of paths
        y : array-like of shape (n, H, W) or (n, k, H, W)
            As in `fit`.

        Returns
        -------
        score : float
            In [0, 1]. Two empty masks agree: 1; if only one of them is empty: 0.
        """
        found = self.predict(X)
        truth = _as_masks(y, len(found))
        masks = found.reshape(len(found), -1, *self.mask_shape_)
        if truth.shape != masks.shape:
            raise ValueError(f"y has shape {np.shape(y)}, and predicted masks have {found.shape}")
        return float(dice(truth, masks).mean())

    def _check_labels(self, y: Any, n_images: int, base: OTCXRPretrainer) -> Masks:
        masks = _as_masks(y, n_images)
        resize = base._architecture["resize"] if hasattr(base, "weights_") else base.resize
        if masks.shape[2] != masks.shape[3] and resize != "squash":
            raise ValueError(
                f"masks of {masks.shape[2]} x {masks.shape[3]} pixels need a pretrainer with "
                f"resize='squash', got {resize!r}; make images and masks square first"
            )
        return masks, np.ndim(y) == 3

    def _task(
        self,
        labels: Masks,
        encoder: FittedEncoder,
        source: ImageSource,
        base: OTCXRPretrainer,
    ) -> tuple[Task, list[Unusable]]:
        size, rows = encoder.architecture["image_size"], np.arange(len(source))
        # Resized as images are, so that they stay on top of them.
        structures = labels[0].transpose(1, 0, 2, 3).astype(np.float32)
        read = [as_source(one).read(rows, size)[:, 0] for one in structures]
        masks = (255 * np.stack(read, 1)).round().astype(np.uint8)
        problems = encoder.unusable(source, base.num_workers)
        return Segmentation(masks, self.layer_decay, self.frozen), problems

    def _take(self, network: SegmentingNetwork, labels: Masks) -> None:
        self.head_weights_ = pack(_heads(network))
        masks, single = labels
        self.mask_shape_ = masks.shape[2:]
        self.n_structures_ = None if single else masks.shape[1]

    def _shared(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        learned = {"mask_shape": list(self.mask_shape_), "n_structures": self.n_structures_}
        return learned, unpack(self.head_weights_)

    def _check_learned(self, learned: Mapping[str, Any]) -> None:
        shape, n_structures = learned["mask_shape"], learned["n_structures"]
        if not isinstance(shape, list) or len(shape) != 2:
            refuse("mask_shape", "must have two numbers")
        for number in shape:
            require_count("mask_shape", number, most=_LARGEST_MASK)
        if n_structures is not None:
            require_count("n_structures", n_structures, most=_MOST_STRUCTURES)
        self.mask_shape_, self.n_structures_ = (shape[0], shape[1]), n_structures

    def _head_of(self, encoder: DenseEncoder) -> dict[str, Tensor]:
        with ordinary(), torch.device("meta"):
            return _heads(self._network_on(encoder))

    def _take_head(self, head: dict[str, Tensor]) -> None:
        self.head_weights_ = pack(head)

    def _network_on(self, encoder: DenseEncoder) -> SegmentingNetwork:
        size = self.pretrainer_._architecture["image_size"]
        return SegmentingNetwork(
            encoder, self.n_structures_ or 1, size, self.layer_decay, frozen=True
        )

    def _network(self) -> tuple[SegmentingNetwork, FittedEncoder]:
        check_is_fitted(self)
        encoder = self.pretrainer_._encoder()
        with Randomness(0, torch.device("cpu")).given():
            network = self._network_on(encoder.load().encoder)
        network.load_state_dict({**network.state_dict(), **unpack(self.head_weights_)})
        return network, encoder

    def _told(self, X: Any, turn: Any, unknown: Any) -> NDArray[Any]:
        with ordinary():
            network, encoder = self._network()
            base = self.pretrainer_
            source = base._source(X, fitting=False, asked_by=self)
            shape = len(source), self.n_structures_ or 1, *self.mask_shape_
            told = np.empty(shape, np.asarray(unknown).dtype)
            unusable: list[Unusable] = []
            seen, start = Spreads(len(source)), 0
            with base._within_memory():
                for scores, problems, spreads in outputs(
                    network, encoder, source, base.num_workers
                ):
                    rows = slice(start, start + len(scores))
                    told[rows] = turn(interpolate(scores, self.mask_shape_, mode="bilinear"))
                    seen.note(rows, spreads)
                    unusable += problems
                    start += len(scores)
            told[[problem.row for problem in unusable]] = unknown
            fate = "Their masks are empty, their probabilities NaN."
            warn_unusable(unusable, len(source), base.on_error, fate)
            seen.warn(source, encoder.mean, encoder.std, FITTED)
            base._unsaved.unusable = unusable_table(unusable)
            return told if self.n_structures_ else told[:, 0]


def _heads(network: SegmentingNetwork) -> dict[str, Tensor]:
    state = network.state_dict()
    return {name: one for name, one in state.items() if not name.startswith("encoder.")}


def _as_masks(y: Any, n_images: int) -> NDArray[np.bool_]:
    """Return masks (n, k, H, W) of bool.

    Raises
    ------
    ValueError
        They are none, or not as many as the images.
    """
    masks = np.asarray(y)
    if masks.ndim not in (3, 4) or not masks.size:
        raise ValueError(f"masks must have shape (n, H, W) or (n, k, H, W), got {masks.shape}")
    if len(masks) != n_images:
        raise ValueError(
            f"there must be a mask for each image, got {counted(len(masks), 'mask')} for "
            f"{counted(n_images, 'image')}"
        )
    masks = masks.reshape(len(masks), -1, *masks.shape[-2:])
    if masks.dtype != bool:
        for row, mask in enumerate(masks):
            if not np.isin(mask, (0, 1)).all():
                raise ValueError(f"row {row}: a mask has other values than 0 and 1; use mask > 0")
    return masks.astype(bool)
