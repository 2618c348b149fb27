"""Whom an encoder was trained on, without telling who that is.

Patients are kept as the first 64 bits of their SHA-256 under a salt that every encoder draws for
itself. That names nobody, and two encoders cannot be joined by it. But whoever has the encoder
can test an id that they already have or guess: short ids, such as numbers of seven digits, can all
be tried. A slow digest would cost more than it prevents: PBKDF2 of 1,000 rounds took 3 minutes for
100,000 patients, and would take 5 hours for all such numbers, on one core.
"""

import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk._columns import normal_id

# What `OTCXRPretrainer.patients_` documents.
Patients = dict[str, Any]

_BYTES = 8


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
