"""What people read about a model that is passed on."""

from collections.abc import Mapping
from typing import Any

from otcxr_sk._quote import counted
from otcxr_sk._version import __version__

_NOT_STATED = "Not stated by whoever saved the model."

# Where the configuration says what was learned from labels.
FINE_TUNING = "fine_tuning"

_CARD = """\
# {title}

{what}

```python
from otcxr_sk import {estimator}

{use}
```

`encoder.safetensors` holds the weights of timm's `{encoder}` (`in_chans=1`, `num_classes=0`) under
timm's names, as {dtype}; `heads.safetensors` what pre-training needs besides{head}.
`sha256sum -c SHA256SUMS` compares the files with their checksums: they find damage, no forgery.

## Images

One channel, {size} x {size} pixels, made square by `{resize}`, values in [0, 1] (integers of 8 and
16 bits divided by their largest number), then `(image - {mean:.6g}) / {std:.6g}`.

## Data

{counts}

{data}

Patients of the training images must not be among those that the model is tested on.

## Settings

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

_LIBRARY = "[otcxr-sk](https://pypi.org/project/otcxr-sk/)"

_PRE_TRAINED = f"""\
was pre-trained without labels by OTCXR (Gorade, Singh and Mishra, WACV 2025), as
{_LIBRARY} {__version__} reconstructs it."""

_AS_IT_WAS = f"""\
has the weights that it started from, and was not pre-trained further by
{_LIBRARY} {__version__}, which saved it."""

_ENCODER = """\
An encoder of chest X-rays: it turns an image into a vector, and every region of it into one. It
{origin}"""

_TUNED = """\
{task} Its encoder, `{encoder}`,
{origin} With labels, it {frozen}."""

_USES = {
    "OTCXRPretrainer": ("encoder", "transform"),
    "OTCXRClassifier": ("classifier", "predict_proba"),
    "OTCXRSegmenter": ("segmenter", "predict"),
}

_HEALTH = {
    "matching_accuracy": "share of mass transported to its true place",
    "matching_chance": "the same by chance",
    "spread": "spread of the embeddings, 0 (all the same) to 1",
    "effective_rank": "effective rank of the embeddings",
    "loss": "loss",
    "cross_entropy": "cross-entropy",
    "dice": "1 - Dice coefficient, in training",
    "validation_loss": "loss of images held out",
    "validation_auc": "mean AUC of images held out",
    "validation_dice": "mean Dice coefficient of images held out",
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
    encoder, estimator = architecture["encoder"], config["estimator"]
    tuning = config.get(FINE_TUNING)
    plain = {
        **{name: value for name, value in parameters.items() if name not in architecture},
        **{name: architecture[name] for name in ("match_stride", "pooling", "views", "objective")},
    }
    name, method = _USES[estimator]
    origin = _AS_IT_WAS if config["n_images"] == 0 else _PRE_TRAINED
    settings, health = _table(plain), _health(config["history"])
    if tuning is None:
        title = f"{encoder}, {'saved' if config['n_images'] == 0 else 'pre-trained'} by otcxr-sk"
        what = _ENCODER.format(origin=origin)
    else:
        title = f"A {name} of chest X-rays: {encoder}, fine-tuned by otcxr-sk"
        frozen = tuning["parameters"]["frozen"]
        what = _TUNED.format(
            task=_task(tuning["learned"]),
            encoder=encoder,
            frozen="stayed as it was" if frozen else "was trained further",
            origin=origin,
        )
        of_tuning = _table(tuning["parameters"]), _health(tuning["history"], frozen=frozen)
        settings, health = (
            f"With labels:\n\n{tuned}\n\nWithout labels, before:\n\n{before}"
            for tuned, before in zip(of_tuning, (settings, health), strict=True)
        )
    return _CARD.format(
        title=title,
        what=what,
        estimator=estimator,
        use=f'{name} = {estimator}.from_pretrained("FOLDER")  # no code in the folder is run\n'
        f"{name}.{method}(images)",
        head="" if tuning is None else ";\n`head.safetensors` what follows the encoder",
        encoder=encoder,
        dtype=config["dtype"],
        size=architecture["image_size"],
        resize=architecture["resize"],
        mean=config["mean"],
        std=config["std"],
        counts=_counts(config, tuning),
        data=data or _NOT_STATED,
        settings=settings,
        health=health,
        licence=licence or _NOT_STATED,
        versions=", ".join(f"{name} {number}" for name, number in config["versions"].items()),
    )


def _task(learned: Mapping[str, Any]) -> str:
    if "classes" not in learned:
        height, width = learned["mask_shape"]
        return (
            f"It finds {learned['n_structures'] or 1} structure(s) in chest X-rays, as masks of "
            f"{height} x {width} pixels."
        )
    if learned["several"]:
        return (
            f"It tells how probable each of {len(learned['classes'])} findings is, in the order of "
            "the labels that it was trained with."
        )
    names = ", ".join(f"`{one}`" for one in learned["classes"])
    return f"It tells how probable each of {len(learned['classes'])} classes is: {names}."


def _counts(config: Mapping[str, Any], tuning: Mapping[str, Any] | None) -> str:
    if config["n_images"] == 0:
        told = ["Trained without labels on no image since the weights that it started from."]
    else:
        told = [f"Trained without labels on {_number(config)}."]
    if tuning is not None:
        told.append(f"Trained with labels on {_number(tuning)}.")
    return " ".join(told)


def _number(config: Mapping[str, Any]) -> str:
    numbers = {"image": config["n_images"], "patient": config["n_patients"]}
    return " of ".join(
        f"an unknown number of {noun}s" if number is None else counted(number, noun)
        for noun, number in numbers.items()
    )


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_shown(value)} |" for name, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    if isinstance(value, list):
        return " to ".join(map(_shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _health(history: Mapping[str, list[float | None]], *, frozen: bool = False) -> str:
    n_epochs = len(history.get("loss", []))
    if frozen and not n_epochs:
        return "A linear probe was fitted; the encoder stayed as it was."
    if not n_epochs:
        return "Not trained here: the weights are those that the encoder started with."
    last = {name: history[name][-1] for name in _HEALTH if name in history}
    rows = {_HEALTH[name]: "none" if value is None else value for name, value in last.items()}
    return f"After {n_epochs} epoch{'s' * (n_epochs > 1)}:\n\n{_table(rows)}"
