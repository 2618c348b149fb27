"""
Pass an encoder on: a folder, plain timm, ONNX
==============================================

Whoever gets an encoder may not have this library. It can be passed on as a folder, whose weights a
plain timm model takes as they are, or as one ONNX graph. Neither is a pickle, and both give the
same embeddings.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import timm
import torch
from safetensors import safe_open
from sklearn.decomposition import PCA

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.estimators import export_onnx

images = make_chest_phantoms(n_patients=40, image_size=64, random_state=0).images
encoder = OTCXRPretrainer(**{**LAPTOP, "epochs": 2}, precision="float32", random_state=0)
embedding = encoder.fit(images).transform(images)

# %%
# A folder
# --------
# Weights, settings, a model card and checksums; no file name, no patient.

place = TemporaryDirectory()
folder = Path(place.name) / "model"
encoder.save_pretrained(folder, data="80 phantoms of 40 patients.", licence="CC0 1.0")
for file in sorted(folder.iterdir()):
    print(f"{file.name:<22}{file.stat().st_size / 1e6:6.2f} MB")

# %%
# In this library, the folder gives back the same estimator, to the last bit.

same = OTCXRPretrainer.from_pretrained(folder)
print(np.array_equal(same.transform(images), embedding))

# %%
# Plain timm
# ----------
# The next lines need timm, torch and safetensors only. The file says which network it is, and how
# images are standardized.

file = str(folder / "encoder.safetensors")
with safe_open(file, "pt") as opened:
    facts = opened.metadata()
network = timm.create_model(facts["encoder"], in_chans=1, num_classes=0, checkpoint_path=file)
pixels = torch.from_numpy(images[:, None] / 255).float()
with torch.inference_mode():
    standard = (pixels - float(facts["mean"])) / float(facts["std"])
    by_timm = network.eval().forward_features(standard).mean((2, 3)).numpy()
print(f"largest difference: {np.abs(by_timm - embedding).max():.1e}")

# %%
# ONNX
# ----
# One graph for other languages, viewers and servers (``pip install "otcxr-sk[onnx]"``). It takes
# gray images in [0, 1] and standardizes them itself.

export_onnx(encoder, folder.with_suffix(".onnx"))
session = onnxruntime.InferenceSession(folder.with_suffix(".onnx"))
(by_onnx,) = session.run(["embedding"], {"images": pixels.numpy()})
print(f"largest difference: {np.abs(by_onnx - embedding).max():.1e}")

# %%
# The first two principal components of what the three make of forty X-rays: every circle, cross and
# point is where the others are.

pca = PCA(2).fit(embedding)
figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, Z, style in (
    (
        "otcxr-sk",
        embedding,
        {"marker": "o", "s": 90, "facecolors": "none", "edgecolors": "#0072b2"},
    ),
    ("timm", by_timm, {"marker": "x", "s": 40, "color": "#d55e00"}),
    ("ONNX", by_onnx, {"marker": ".", "s": 20, "color": "black", "zorder": 3}),
):
    ax.scatter(*pca.transform(Z[:40]).T, label=name, **style)
ax.set(xlabel="first component", ylabel="second component")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
place.cleanup()
