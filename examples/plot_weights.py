"""
Start from ImageNet's or RAD-DINO's weights
===========================================

``weights=`` says what an encoder is before its first step: a file of ImageNet's weights, the folder
of RAD-DINO, or an encoder that was pre-trained before. Nothing is downloaded for you.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from safetensors.torch import save_file
from sklearn.base import clone

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.plotting import HistoryDisplay

images = make_chest_phantoms(n_patients=40, image_size=64, random_state=1).images
place = TemporaryDirectory()
folder = Path(place.name)

# %%
# ImageNet
# --------
# timm's weights are files on Hugging Face. This gets those of the network in ``LAPTOP``:
#
# .. code-block:: bash
#
#     hf download timm/resnet10t.c3_in1k model.safetensors --local-dir resnet10t
#
# Examples have no network, so here is a file of the same layout, with random numbers: the first
# kernels take three colors, and there is a classifier of 1,000 classes.

torch.manual_seed(0)
network = timm.create_model("resnet10t").eval()
save_file(network.state_dict(), folder / "model.safetensors")
print(tuple(network.state_dict()["conv1.0.weight"].shape), tuple(network.fc.weight.shape))

# %%
# The classifier is dropped, and the kernels of the three colors are summed. So an X-ray gives what
# timm makes of it as a picture of three equal colors. With ``epochs=0``, weights stay as they are.

start = OTCXRPretrainer("resnet10t", weights=folder / "model.safetensors", image_size=64, epochs=0)
start.set_params(precision="float32").fit(images)
standard = torch.from_numpy((images[:4] / 255 - start.mean_) / start.std_).float()
with torch.inference_mode():
    color = network.forward_features(standard[:, None].expand(-1, 3, -1, -1)).mean((2, 3))
print(f"largest difference {np.abs(start.transform(images[:4]) - color.numpy()).max():.1e}")

# %%
# RAD-DINO
# --------
# RAD-DINO is a vision transformer that was trained on X-rays. Its folder is passed as it is
# downloaded, ``hf download microsoft/rad-dino --local-dir rad-dino``, and its class token is the
# embedding. ``fit`` without epochs only measures mean and deviation of the pixels, which are then
# replaced by those that the weights were trained with:
#
# .. code-block:: python
#
#     rad_dino = OTCXRPretrainer(
#         "vit_base_patch14_dinov2",
#         weights="rad-dino",
#         image_size=518,
#         resize="crop",
#         epochs=0,
#         pooling="token",
#     ).fit(images)
#     rad_dino.mean_, rad_dino.std_ = 0.5307, 0.2583
#
# An encoder that was pre-trained before
# --------------------------------------
# ``save_encoder`` writes an encoder as timm's weights, and another run starts from them. Good
# weights need a lower learning rate than a random start.

other = make_chest_phantoms(n_patients=150, image_size=64, random_state=0).images
first = OTCXRPretrainer(**{**LAPTOP, "epochs": 4, "batch_size": 32}, random_state=0).fit(other)
first.save_encoder(folder / "encoder.safetensors")

short = OTCXRPretrainer(**{**LAPTOP, "epochs": 3, "batch_size": 32}, random_state=0)
given = clone(short).set_params(weights=folder / "encoder.safetensors", learning_rate=2e-3)
runs = {"random start": short.fit(images), "encoder of others": given.fit(images)}

# %%
# Both runs see the same 80 X-rays three times. The one that starts from the encoder of others has a
# lower loss and matches better from the first epoch on.

display = HistoryDisplay.from_estimator(runs)
plt.figure(display.figure_)
plt.show()
place.cleanup()
