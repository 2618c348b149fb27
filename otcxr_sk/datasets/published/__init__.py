"""Readers of published data sets, one file per set."""

from otcxr_sk.datasets.published._chexpert import load_chexpert
from otcxr_sk.datasets.published._collect import PatientsUnknownWarning
from otcxr_sk.datasets.published._kermany import load_kermany
from otcxr_sk.datasets.published._masks import LazyMasks
from otcxr_sk.datasets.published._medmnist import fetch_medmnist, get_data_home
from otcxr_sk.datasets.published._mimic import load_mimic_cxr
from otcxr_sk.datasets.published._nih import load_nih
from otcxr_sk.datasets.published._rsna import load_rsna_pneumonia
from otcxr_sk.datasets.published._siim import load_siim_pneumothorax
from otcxr_sk.datasets.published._tuberculosis import load_montgomery, load_shenzhen
from otcxr_sk.datasets.published._vindr import load_vindr_cxr

__all__ = [
    "LazyMasks",
    "PatientsUnknownWarning",
    "fetch_medmnist",
    "get_data_home",
    "load_chexpert",
    "load_kermany",
    "load_mimic_cxr",
    "load_montgomery",
    "load_nih",
    "load_rsna_pneumonia",
    "load_shenzhen",
    "load_siim_pneumothorax",
    "load_vindr_cxr",
]
