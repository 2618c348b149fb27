"""Whom an encoder was trained on, without telling who that is.

Patients are kept as the first 64 bits of their SHA-256 under a salt that every encoder draws for
itself. That names nobody, and two encoders cannot be joined by it. But whoever has the encoder
can test an id that they already have or guess: short ids, such as numbers of seven digits, can all
be tried. A slow digest would cost more than it prevents: PBKDF2 of 1,000 rounds took 3 minutes for
100,000 patients, and would take 5 hours for all such numbers, on one core.
"""

import secrets
from collections.abc import Mapping
from copy import copy
from hashlib import sha256
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from otcxr_sk._columns import check_patients, normal_id
from otcxr_sk._warning import warn_user

# What `OTCXRPretrainer.patients_` documents.
Patients = dict[str, Any]

_BYTES = 8


class KnowsPatients:
    """An estimator that can tell whom it was trained on."""

    patients_: Patients | None

    def seen(self, groups: Any, *, held_out: bool = False) -> NDArray[np.bool_]:
        """Return which patients this was trained on.

        Parameters
        ----------
        groups : array-like of shape (n,)
            Patient of each image, none missing.
        held_out : bool, default=False
            Whether patients that were held out by `validation_fraction` count, too.

        Returns
        -------
        seen : ndarray of shape (n,), bool
            For `seen` of `linear_probe`, `compare` and the like, which warn of such test patients.

        Raises
        ------
        ValueError
            The encoder knows no patients: it was trained without `groups`, or forgot them.

        Warns
        -----
        UserWarning
            Some of the training was without `groups`: others may have been seen.

        Examples
        --------
        >>> from otcxr_sk import OTCXRPretrainer
        >>> from otcxr_sk.datasets import make_chest_phantoms
        >>> data = make_chest_phantoms(4, image_size=32, random_state=0)
        >>> enc = OTCXRPretrainer("resnet10t", image_size=32, epochs=1, random_state=0)
        >>> enc.fit(data.images, groups=["a", "a", "b", "b", "c", "c", "d", "d"]).seen(["B", "e"])
        array([ True, False])
        """
        check_is_fitted(self)
        known = self.patients_
        if known is None:
            raise ValueError(
                "this encoder knows no patients: it was trained without groups, or forgot them"
            )
        if not known["complete"]:
            warn_user(
                "some of the training was without groups: patients that count as not seen may have "
                "been seen"
            )
        found = digest(check_patients(groups), known["salt"])
        parts = ("trained", "held_out") if held_out else ("trained",)
        return np.isin(found, np.concatenate([known[part] for part in parts]))

    def forget_patients(self) -> Self:
        """Forget who was trained on, before a copy is given away.

        Returns
        -------
        self : object
            Without `patients_`, so `seen` is an error. A pretrainer in `weights` is replaced by a
            copy that has forgotten, too. Nothing else changes.
        """
        check_is_fitted(self)
        return _forget(self)


def _forget(estimator: Any) -> Any:
    if hasattr(estimator, "patients_"):
        estimator.patients_ = None
    # A pickle holds what training started from, too; the user may still ask that for patients.
    for name in {"pretrainer", "weights"} & vars(estimator).keys():
        setattr(estimator, name, _forgetful(getattr(estimator, name)))
    return estimator


def _forgetful(start: Any) -> Any:
    if isinstance(start, FrozenEstimator):
        return FrozenEstimator(_forgetful(start.estimator))
    return _forget(copy(start)) if isinstance(start, KnowsPatients) else start


def new_salt() -> str:
    """Draw a salt that no seed decides: who knows it can test ids."""
    return secrets.token_hex(32)


def nobody(salt: str) -> Patients:
    """Return the patients of an encoder that was never trained."""
    none = np.empty(0, np.uint64)
    return {"salt": salt, "trained": none, "held_out": none, "complete": True}


def note(
    earlier: Mapping[str, Any] | None,
    trained: NDArray[Any] | None,
    held_out: NDArray[Any] | None,
    salt: str,
) -> Patients | None:
    """Add the patients of a training to those of earlier ones.

    Parameters
    ----------
    earlier : dict or None
        `patients_` of what training went on from.
    trained, held_out : ndarray or None
        Patient of each image, as `check_patients` returns them; None if they are unknown.
    salt : str
        Used if no patients were kept earlier.
    """
    known = {**nobody(salt), "complete": False} if earlier is None else dict(earlier)
    if trained is None or held_out is None:
        return {**known, "complete": False} if len(known["trained"]) else None
    for part, ids in (("trained", trained), ("held_out", held_out)):
        known[part] = np.union1d(known[part], digest(ids, known["salt"]))
    return known


def count(known: Mapping[str, Any] | None) -> int | None:
    """Return the number of patients that were trained on, or None if some are unknown."""
    return len(known["trained"]) if known is not None and known["complete"] else None


def digest(ids: NDArray[Any], salt: str) -> NDArray[np.uint64]:
    """Return the digests of patients, one for each image."""
    names, patient = np.unique(ids, return_inverse=True)
    key = bytes.fromhex(salt)
    digests = [sha256(key + _spelled(name)).digest()[:_BYTES] for name in names.tolist()]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)[patient]


def _spelled(patient: Any) -> bytes:
    """Return the one spelling of an id, the same for 7, "7" and "007"."""
    if isinstance(patient, float) and patient.is_integer():
        patient = int(patient)
    text = normal_id(str(patient))
    if text.isascii() and text.isdigit():
        text = text.lstrip("0") or "0"
    return text.encode("utf-8", "surrogatepass")
