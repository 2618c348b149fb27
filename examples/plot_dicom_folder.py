"""
From a DICOM folder to predictions
==================================

A folder as a hospital might export it: X-rays of two devices, one of which stores them inverted
(MONOCHROME1), and lateral views in between. The headers tell which files to use and whose they are.
Estimators then take the paths.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.images import list_images, read_dicom, read_dicom_table

# %%
# A folder
# --------
# Skip this part if you have one. The X-rays are synthetic, and every tenth is labeled as a lateral.


def write_dicom(path, image, patient, view, *, inverted):
    """Write an X-ray of 12 bits."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID = meta.MediaStorageSOPClassUID
    file.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    file.Modality, file.ViewPosition, file.PatientID = "DX", view, patient
    stored = 16 * image.astype(np.uint16)
    if inverted:
        stored = 4095 - stored
    polarity = "MONOCHROME1" if inverted else "MONOCHROME2"
    file.set_pixel_data(stored, polarity, bits_stored=12, generate_instance_uid=False)
    file.save_as(path, enforce_file_format=True)


data = make_chest_phantoms(n_patients=80, image_size=64, random_state=0)
place = TemporaryDirectory()
folder = Path(place.name)
effusion = {}
for row, (image, patient) in enumerate(zip(data.images, data.groups, strict=True)):
    path = folder / f"{row:03}.dcm"
    view = "LL" if row % 10 == 9 else "PA"
    write_dicom(path, image, f"P{patient}", view, inverted=patient % 2 == 1)
    effusion[str(path)] = data.labels[row, data.label_names.index("effusion")]

# %%
# Which files, and of whom?
# -------------------------
# ``read_dicom_table`` reads the headers only. The salt is a secret of the hospital, under which
# patients get other ids.

table = pd.DataFrame(read_dicom_table(list_images(folder), salt="7b1c02e9 kept in the hospital"))
print(table[["view_position", "photometric"]].value_counts().to_string())
frontal = table[table["view_position"].isin(["PA", "AP"])]
paths = frontal["path"].to_numpy()
patients = frontal["patient_id"].to_numpy()

# %%
# How a file is read
# ------------------
# On the left are the numbers in two files, on the right is what ``read_dicom`` makes of them, and
# with it every estimator of the library: bright is dense, in both.

figure, axes = plt.subplots(1, 4, figsize=(8, 2.4), layout="constrained")
for column, row in enumerate((0, 2)):
    polarity = frontal["photometric"].iloc[row]
    axes[column].imshow(pydicom.dcmread(paths[row]).pixel_array, cmap="gray")
    axes[column].set_title(f"stored\n{polarity}", fontsize="small")
    axes[2 + column].imshow(read_dicom(paths[row]), cmap="gray")
    axes[2 + column].set_title(f"read\n{polarity}", fontsize="small")
for ax in axes:
    ax.set_axis_off()
plt.show()

# %%
# Predictions
# -----------
# The labels are in a dict by path here. The whole Pipeline is fitted on half of the patients, and
# predicts the X-rays of the others.

y = np.array([effusion[path] for path in paths])
split = GroupShuffleSplit(1, test_size=0.5, random_state=0)
train, test = next(split.split(paths, groups=patients))
model = make_pipeline(
    OTCXRPretrainer(**{**LAPTOP, "epochs": 2, "batch_size": 32}, random_state=0),
    StandardScaler(),
    LogisticRegression(C=0.01),
)
model.fit(paths[train], y[train])
predicted = frontal.iloc[test][["patient_id", "view_position", "photometric"]].assign(
    probability=model.predict_proba(paths[test])[:, 1]
)
print(predicted.assign(patient_id=predicted["patient_id"].str[:8]).head().to_string(index=False))

# %%
# The probabilities of the two devices are alike: an inverted X-ray is read as any other. Whether
# they are good ones is another question, and an encoder that was trained for seconds has no answer.

figure, ax = plt.subplots(figsize=(4.2, 3.6), layout="constrained")
devices = predicted.groupby("photometric")["probability"]
ax.boxplot([part for _, part in devices], tick_labels=[name for name, _ in devices])
ax.set_ylabel("probability of an effusion")
ax.spines[["top", "right"]].set_visible(False)
plt.show()
place.cleanup()
