"""Chest radiographs with labels and patients: synthetic, published, and those of the user."""

from ._chexpert import load_chexpert
from ._duplicates import NearDuplicates, find_near_duplicates
from ._kermany import load_kermany
from ._labelled import load_labelled
from ._leakage import LeakageError, check_leakage
from ._masks import LazyMasks
from ._medmnist import fetch_medmnist, get_data_home
from ._mimic import load_mimic_cxr
from ._nih import load_nih
from ._phantoms import make_chest_phantoms
from ._published import PatientsUnknownWarning
from ._rsna import load_rsna_pneumonia
from ._siim import load_siim_pneumothorax
from ._tuberculosis import load_montgomery, load_shenzhen
from ._vindr import load_vindr_cxr

__all__ = [
    "LazyMasks",
    "LeakageError",
    "NearDuplicates",
    "PatientsUnknownWarning",
    "check_leakage",
    "fetch_medmnist",
    "find_near_duplicates",
    "get_data_home",
    "load_chexpert",
    "load_kermany",
    "load_labelled",
    "load_mimic_cxr",
    "load_montgomery",
    "load_nih",
    "load_rsna_pneumonia",
    "load_shenzhen",
    "load_siim_pneumothorax",
    "load_vindr_cxr",
    "make_chest_phantoms",
]
