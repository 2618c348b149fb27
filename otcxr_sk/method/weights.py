"""Weights of an encoder: a local file -> a state dict by the names that timm knows."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_PICKLED = (".pth", ".pt", ".bin", ".tar")
_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")

# Where training scripts put the weights in what they save; averaged ones first, as timm does.
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")

# Hugging Face's names of DINOv2 and those of its authors, which timm reads, in this order.
_DINOV2 = {
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.": "",
    "encoder.layer.": "blocks.",
    "attention.q_proj.": "attention.attention.query.",
    "attention.k_proj.": "attention.attention.key.",
    "attention.v_proj.": "attention.attention.value.",
    "attention.output.dense.": "attn.proj.",
    "attention.o_proj.": "attn.proj.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in.": "mlp.w12.",
    "mlp.weights_out.": "mlp.w3.",
    "layernorm.": "norm.",
}


def locate(path: str | Path) -> Path:
    """Give the file of weights that a path means: itself, or in a folder of Hugging Face's.

    Raises
    ------
    ValueError
        There is no such file, or it is of no kind that can be read.
    """
    path = Path(path)
    places = [path / name for name in _IN_FOLDERS] if path.is_dir() else [path]
    file = next((place for place in places if place.is_file()), path)
    if not file.is_file() or file.suffix not in (".safetensors", *_PICKLED):
        raise ValueError(
            f"weights must be an existing .safetensors file, or one of {', '.join(_PICKLED)}, or a "
            f"folder that holds {' or '.join(_IN_FOLDERS)}; got {str(path)!r}"
        )
    return file


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a state dict; no code in the file is ever run.

    Parameters
    ----------
    file : Path
        As from `locate`. Memory-mapped, unless PyTorch wrote it before version 1.6.

    Returns
    -------
    state : dict of str to Tensor
        On the CPU, taken from under ``state_dict`` or ``model`` if it is nested there, less the
        prefixes of wrapped modules. Names of Hugging Face's DINOv2 become those of its authors.

    Raises
    ------
    ValueError
        The file is damaged, is larger when unpacked, or holds anything but plain tensors.
    """
    content = _map(file) if file.suffix == ".safetensors" else _unpickle(file)
    if isinstance(content, Mapping):
        nested = (content.get(key) for key in _NESTED)
        content = next((inner for inner in nested if isinstance(inner, Mapping)), content)
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{str(file)!r} holds no state dict, at its top or in {_NESTED}")
    odd = next((k for k, v in content.items() if not isinstance(k, str) or not _plain(v)), None)
    if odd is not None:
        raise ValueError(
            f"{str(file)!r} holds {odd!r}, which is no plain tensor of numbers; a state dict is "
            f"looked for at its top and in {_NESTED}. Save it alone: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        )
    return _dinov2({_unwrapped(key): value for key, value in content.items()})


def is_dinov2(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names that DINOv2's authors gave, by which timm tells it."""
    return "mask_token" in state


def check_config(file: Path, backbone: nn.Module) -> None:
    """Refuse a backbone with another number of heads than the config beside the weights states.

    The shapes of weights do not tell it, so that it would be wrong unnoticed.
    """
    config = file.with_name("config.json")
    if not config.is_file():
        return
    try:
        stated = json.loads(config.read_text(encoding="utf-8")).get("num_attention_heads")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{str(config)!r} is not the config of a model: {error}") from error
    blocks = getattr(backbone, "blocks", [None])
    heads = getattr(getattr(blocks[0], "attn", None), "num_heads", None)
    if stated is not None and heads is not None and stated != heads:
        raise ValueError(
            f"{str(config)!r} states {stated!r} attention heads, the encoder has {heads}; choose "
            "the encoder that the weights are of"
        )


def summary(error: Exception) -> str:
    """Tell what does not fit from PyTorch's account of every weight: of each kind the first few."""
    account = str(error)
    missing, surplus = (
        re.findall(r"'(\S+?)'", listed.group().replace('"', "'")) if listed else []
        for listed in (
            re.search(rf"^\s*{kind} key\(s\) in state_dict: .*$", account, re.MULTILINE)
            for kind in ("Missing", "Unexpected")
        )
    )
    shapes = re.findall(
        r"size mismatch for (\S+): .* shape torch\.Size\((.*?)\) .* is torch\.Size\((.*?)\)",
        account,
    )
    told = []
    if missing:
        each = "each of " * (len(missing) > 1)
        told.append(f"the state dict does not hold all of them, {each}{_first(missing)} is missing")
    if surplus:
        told.append(f"it holds what the encoder has no place for, {_first(surplus)}")
    if shapes:
        told.append(_first([f"{name} has shape {has}, not {need}" for name, has, need in shapes]))
    return "; ".join(told) or f"{type(error).__name__}: {account.partition(chr(10))[0][:200]}"


def _first(items: list[str]) -> str:
    return ", ".join(items[:3]) + f" (the first of {len(items)})" * (len(items) > 3)


def _map(file: Path) -> Any:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(file)!r} is damaged or no safetensors file: {error}") from error


def _unpickle(file: Path) -> Any:
    try:
        archive = zipfile.is_zipfile(file)
        inflated = archive and _inflated(file)
        if not inflated:
            # timm's scripts save their options beside the weights; a Namespace runs nothing.
            with torch.serialization.safe_globals([Namespace]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.load(file, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # A hostile file may make the reader raise anything.
        # PyTorch's own message advises to run what it refused: it is not passed on.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise ValueError(
                f"{str(file)!r} is damaged, cut off or no file of weights that PyTorch wrote "
                f"({type(error).__name__})"
            ) from None
        raise ValueError(
            f"{str(file)!r} is refused: it asks for {asked[1]}, which is no weight. Nothing of it "
            "was run. If you trust its source, load it where it was made and save its weights "
            "alone: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from None
    raise ValueError(
        f"{str(file)!r} is larger unpacked than it is, which no file that PyTorch wrote is; "
        "it may be a zip bomb"
    )


def _inflated(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    return not stored or sum(member.file_size for member in members) > file.stat().st_size


def _plain(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
        # A view may claim far more numbers than the file holds.
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _dinov2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    bare = {re.sub(r"^dinov2(_with_registers)?\.", "", name): v for name, v in state.items()}
    if "encoder.layer.0.layer_scale1.lambda1" not in bare:
        return state
    renamed = {}
    for name, value in bare.items():
        for theirs, ours in _DINOV2.items():
            name = name.replace(theirs, ours)
        if not name.startswith("classifier."):
            renamed[name] = value
    for name in [name for name in renamed if ".attention.attention.query." in name]:
        parts = [name.replace("query", part) for part in ("query", "key", "value")]
        found = [renamed[part] for part in parts if part in renamed]
        if len(found) == 3 and len({part.shape for part in found}) == 1 and found[0].ndim:
            joined = name.replace("attention.attention.query", "attn.qkv")
            renamed[joined] = torch.cat(found)
            for part in parts:
                del renamed[part]
    # The token that hid patches in training marks the layout; timm drops it.
    renamed.setdefault("mask_token", torch.zeros(1))
    return renamed
