"""Dense transfer: segmentation by a linear head on the maps of a frozen encoder."""

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import interpolate

# As strong as in the library's probes, and as fixed.
PENALTY = 1000
THRESHOLDS = np.linspace(0.05, 0.95, 19)


@torch.inference_mode()
def dense_features(frozen, images):
    """Return both maps of an encoder on the finer grid: images (n, 1, H, W) -> (n, h, w, d)."""
    found = []
    for x in frozen.standardized(images):
        matched, last, _ = frozen.encoder(x)
        last = interpolate(last, matched.shape[2:], mode="bilinear")
        found.append(torch.cat([matched, last], 1).permute(0, 2, 3, 1).cpu())
    return torch.cat(found).numpy()


def dice_of_head(features, masks, fitted, test):
    """Return the Dice coefficient of each mask over all pixels of the test rows.

    The head is ridge regression from each place of the map to the pixels that it covers. The
    threshold of each mask is the one that is best on the rows fitted.

    Parameters
    ----------
    features : ndarray of shape (n, h, w, d)
    masks : ndarray of bool, shape (n, k, H, W)
        H and W are multiples of h and w.
    fitted, test : ndarray of int

    Returns
    -------
    dice : ndarray of shape (k,)
        In [0, 1].
    """
    n, k, height, width = masks.shape
    rows, columns, width_of_features = features.shape[1:]
    y, x = height // rows, width // columns
    pixels = masks.reshape(n, k, rows, y, columns, x).transpose(0, 2, 4, 1, 3, 5)

    def places(part):
        return features[part].reshape(-1, width_of_features), pixels[part].reshape(-1, k, y * x)

    z, truth = places(fitted)
    head = make_pipeline(StandardScaler(), Ridge(PENALTY))
    head.fit(z, truth.reshape(len(z), -1).astype(np.float32))
    found = head.predict(z).reshape(truth.shape)
    best = np.argmax([dice(truth, found > threshold) for threshold in THRESHOLDS], axis=0)
    z, truth = places(test)
    return dice(truth, head.predict(z).reshape(truth.shape) > THRESHOLDS[best][:, None])


def dice(truth, found):
    """Return the Dice coefficient of k masks (m, k, p); 0 if a mask is empty in both arrays."""
    both = 2 * (truth & found).sum((0, 2))
    return both / np.maximum(truth.sum((0, 2)) + found.sum((0, 2)), 1)
