"""What people read about a model that is passed on."""

from collections.abc import Mapping
from typing import Any

from otcxr_sk._version import __version__

_NOT_STATED = "Not stated by whoever saved the model."

_CARD = """\
# {encoder}, pre-trained by otcxr-sk

An encoder of chest X-rays: it turns an image into a vector, and every region of it into one. It was
pre-trained without labels by OTCXR (Gorade, Singh and Mishra, WACV 2025), as
[otcxr-sk](https://pypi.org/project/otcxr-sk/) {version} reconstructs it.

```python
from otcxr_sk import OTCXRPretrainer

encoder = OTCXRPretrainer.from_pretrained("FOLDER")  # no code in the folder is run
encoder.transform(images)
```

`encoder.safetensors` holds the weights of timm's `{encoder}` (`in_chans=1`, `num_classes=0`) under
timm's names, as {dtype}; `heads.safetensors` what training needs besides. `sha256sum -c SHA256SUMS`
compares the files with their checksums, which find damage, and no forgery.

## Images

One channel, {size} x {size} pixels, made square by `{resize}`, values in [0, 1] (integers of 8 and
16 bits divided by their largest number), then `(image - {mean:.6g}) / {std:.6g}`.

## Data

{data}

Patients of the training images must not be among those that the encoder is tested on.

## Settings

| | |
|---|---|
{settings}

## Health

{health}

## Limits

- Research software, not a medical device. No radiologist has assessed any output.
- Images of another kind (projection, age, machine, processing) than those of training may be
  embedded badly, and nothing here tells how badly. Test on your own patients.
- The weights were learnt from images of patients. They hold no file name and no patient id; that
  nothing about a patient can be inferred from them is not proven.

## Licence

{licence}

The library otcxr-sk has the MIT licence, which says nothing about these weights.

## Versions

{versions}.
"""

_HEALTH = {
    "matching_accuracy": "share of mass transported to its true place",
    "matching_chance": "the same by chance",
    "spread": "spread of the embeddings, 0 (all the same) to 1",
    "effective_rank": "effective rank of the embeddings",
    "loss": "loss",
    "validation_loss": "loss of images held out",
}


def model_card(config: Mapping[str, Any], *, data: str | None, licence: str | None) -> str:
    """Return the model card, in Markdown, that goes with a configuration.

    Parameters
    ----------
    config : dict
        As `save_pretrained` writes it.
    data, licence : str or None
        What the user says about the images, and about who may use the weights.
    """
    architecture, parameters = config["architecture"], config["parameters"]
    plain = {
        **{name: value for name, value in parameters.items() if name not in architecture},
        **{name: architecture[name] for name in ("match_stride", "pooling", "views", "objective")},
    }
    return _CARD.format(
        encoder=architecture["encoder"],
        version=__version__,
        dtype=config["dtype"],
        size=architecture["image_size"],
        resize=architecture["resize"],
        mean=config["mean"],
        std=config["std"],
        data=data or _NOT_STATED,
        settings="\n".join(f"| {name} | {_shown(plain[name])} |" for name in plain),
        health=_health(config["history"]),
        licence=licence or _NOT_STATED,
        versions=", ".join(f"{name} {number}" for name, number in config["versions"].items()),
    )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    if isinstance(value, list):
        return " to ".join(map(_shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _health(history: Mapping[str, list[float | None]]) -> str:
    n_epochs = len(history.get("loss", []))
    if not n_epochs:
        return "Not trained here: the weights are those that the encoder started with."
    last = {name: history[name][-1] for name in _HEALTH if name in history}
    rows = [
        f"| {_HEALTH[name]} | {'none' if value is None else _shown(value)} |"
        for name, value in last.items()
    ]
    return "\n".join(
        [f"After {n_epochs} epoch{'s' * (n_epochs > 1)}:", "", "| | |", "|---|---|", *rows]
    )
