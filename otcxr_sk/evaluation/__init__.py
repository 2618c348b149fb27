"""Evaluation of embeddings on patients that no classifier was fitted on."""

from otcxr_sk.evaluation._auc import ProbeAUC, probe_auc
from otcxr_sk.evaluation._baseline import pixel_features
from otcxr_sk.evaluation._comparison import Comparison, compare
from otcxr_sk.evaluation._deletion import deletion_curves
from otcxr_sk.evaluation._efficiency import few_labels, label_efficiency
from otcxr_sk.evaluation._explain import explain
from otcxr_sk.evaluation._familiarity import Familiarity
from otcxr_sk.evaluation._health import embedding_health
from otcxr_sk.evaluation._online import KNNProbe
from otcxr_sk.evaluation._operating import OperatingPoint, operating_point
from otcxr_sk.evaluation._probe import knn_probe, linear_probe, make_probe, probe_roc
from otcxr_sk.evaluation._shift import DomainShift, domain_shift
from otcxr_sk.evaluation._split import MultilabelStratifiedGroupKFold

__all__ = [
    "Comparison",
    "DomainShift",
    "Familiarity",
    "KNNProbe",
    "MultilabelStratifiedGroupKFold",
    "OperatingPoint",
    "ProbeAUC",
    "compare",
    "deletion_curves",
    "domain_shift",
    "embedding_health",
    "explain",
    "few_labels",
    "knn_probe",
    "label_efficiency",
    "linear_probe",
    "make_probe",
    "operating_point",
    "pixel_features",
    "probe_auc",
    "probe_roc",
]
