"""
What was matched
================

In pre-training, optimal transport matches the regions of one view of an X-ray with those of another
view of it. Both views are cut at known coordinates, so the right answer is known, and one can see
how far an encoder has come.
"""

import matplotlib.pyplot as plt

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.plotting import MatchingDisplay, TransportDisplay

images = make_chest_phantoms(n_patients=150, image_size=64, random_state=0).images
others = make_chest_phantoms(n_patients=20, image_size=64, random_state=1).images

encoder = OTCXRPretrainer(**{**LAPTOP, "epochs": 4, "batch_size": 32}, random_state=0).fit(images)

# %%
# Two views of one X-ray
# ----------------------
# On the left, four regions of the first view of a patient who was not trained on. On the right, the
# second view: the more mass a region got from the framed one of a color, the stronger it is filled
# with that color. A cross marks the true place.

display = MatchingDisplay.from_estimator(encoder, others[:4:2], random_state=0)
plt.figure(display.figure_)
plt.show()

# %%
# The accuracy is the share of the mass that arrives less than a region away from the true place.
# Here it is that of all twenty new patients:

found = encoder.match(others, random_state=0)
print(f"matching accuracy {found.accuracy:.2f}, by chance {found.chance:.2f}")

# %%
# The whole plan
# --------------
# An arrow for every region: it begins at the true place and ends in the middle of where the mass
# went, so its length is the error. Wide arrows are sure ones.

display = TransportDisplay.from_estimator(encoder, others[:1], random_state=0)
plt.figure(display.figure_)
plt.show()

# %%
# Two patients
# ------------
# The encoder was never trained to match two patients, so this plan has no accuracy: it shows what
# the encoder takes to be alike. The region is the lower part of one lung, and most of its mass goes
# to the same lung of the other patient, or near it.

display = TransportDisplay.from_estimator(
    encoder, others[:1], others[2:3], region=(0.15, 0.45, 0.4, 0.75)
)
plt.figure(display.figure_)
plt.show()
