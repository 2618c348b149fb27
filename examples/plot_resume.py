"""
Stop and resume
===============

Pre-training can take days, and machines do not always last that long. With ``checkpoint=`` a run is
saved after every epoch. To go on after an interruption, run the same script again: it ends with the
weights that it would have had.
"""

import signal
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.plotting import HistoryDisplay
from otcxr_sk.training import Callback

images = make_chest_phantoms(n_patients=24, image_size=64, random_state=0).images

# %%
# Ctrl-C
# ------
# A callback presses Ctrl-C after the second of four epochs. ``fit`` saves the run, then raises
# ``KeyboardInterrupt`` as usual.


# Shells may start background jobs, such as the build of this page, with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


class PressCtrlC(Callback):
    def on_epoch_end(self, state):
        if state.epoch == 2:
            signal.raise_signal(signal.SIGINT)


place = TemporaryDirectory()
parameters = {**LAPTOP, "epochs": 4, "batch_size": 16, "checkpoint": place.name, "random_state": 0}
interrupted = OTCXRPretrainer(**parameters, callbacks=[PressCtrlC()])
try:
    interrupted.fit(images)
except KeyboardInterrupt as error:
    print(type(error).__name__, "after", len(interrupted.history_["loss"]), "epochs")

# %%
# Go on
# -----
# Another process would do the same: ``fit`` finds the run in the folder.

resumed = OTCXRPretrainer(**parameters).fit(images)
print(len(resumed.history_["loss"]), "epochs")

# %%
# The same weights
# ----------------
# A run that nobody interrupted gives the same embeddings, bit for bit.

whole = OTCXRPretrainer(**{**parameters, "checkpoint": None}).fit(images)
print(np.array_equal(resumed.transform(images), whole.transform(images)))

# %%
# The history is that of one run. The first two epochs of both curves are the same, so the upper one
# hides the other.

display = HistoryDisplay.from_estimator({"resumed": resumed, "interrupted": interrupted})
plt.figure(display.figure_)
plt.show()
place.cleanup()
