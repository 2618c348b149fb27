"""timm's model alone: the limit that the speed of the library is told beside."""

import torch
from devices import autocast

from otcxr_sk.method import build_encoder
from otcxr_sk.training import choose_precision


class Bare:
    """A timm model on a device, in channels_last and the arithmetic that the library would choose.

    Parameters
    ----------
    name : str
        Name of a timm model.
    size : int
        Height and width of its images.
    precision : {"auto", "bfloat16", "float32"}, default="auto"
    device : str or torch.device, default="cpu"
    n_classes : int, default=0
        0 for pooled features instead of scores.
    """

    def __init__(self, name, size, precision="auto", device="cpu", n_classes=0):
        self.size, self.device = size, torch.device(device)
        self.dtype = choose_precision(precision, self.device)
        model = build_encoder(name, size=size, match_stride=16).backbone
        model.reset_classifier(n_classes)
        self.model = model.to(self.device, memory_format=torch.channels_last)

    def autocast(self):
        return autocast(self.device, self.dtype)

    def noise(self, n_images):
        return torch.randn(n_images, 1, self.size, self.size, device=self.device)

    def training(self, n_images):
        """Make a function that trains the model for a step on that many images of noise."""
        model, images = self.model.train(), self.noise(n_images)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def learn():
            with self.autocast():
                pooled = model(images)
            pooled.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return learn
