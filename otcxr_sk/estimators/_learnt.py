"""What `fit` leaves in an estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from otcxr_sk.estimators._persistence import pack
from otcxr_sk.estimators._unusable import as_table
from otcxr_sk.images._scan import Scan
from otcxr_sk.method.model import OTCXRModel

E = TypeVar("E")


def take(
    estimator: E,
    model: OTCXRModel,
    architecture: dict[str, Any],
    found: Scan,
    history: Mapping[str, Sequence[float]],
) -> E:
    """Make an estimator what has been learnt so far, and give it back."""
    given = architecture["encoder"]
    vars(estimator).update(
        _architecture=architecture,
        weights_=pack(model),
        mean_=found.mean,
        std_=found.std,
        history_={name: list(values) for name, values in history.items()},
        skipped_=as_table(found.unusable),
        n_epochs_=len(history.get("loss", [])),
        embedding_dim_=model.encoder.last_shape[0],
        encoder_name_=given if isinstance(given, str) else type(given).__name__,
    )
    return estimator
