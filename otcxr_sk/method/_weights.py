"""Reads weights of encoders from local files, under names that timm knows."""

import json
import re
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from otcxr_sk._paths import as_path

_PICKLED = (".pth", ".pt", ".bin", ".tar")
_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")

# Keys under which training scripts save the weights; averaged ones first, as in timm.
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")

# timm's scripts save their options with the weights. PyTorch refuses their class, and would have
# to be told for all threads that it runs no code; this one it knows.
_OPTIONS, _PLAIN = "argparse.Namespace", "collections.OrderedDict"

# Hugging Face's names in DINOv2 and its authors' names, which timm reads; replaced in this order.
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
    """Return the file of weights at a path, which may be a folder from Hugging Face.

    Raises
    ------
    ValueError
        There is no such file, or its format is not supported.
    """
    path = Path(as_path(path))
    places = [path / name for name in _IN_FOLDERS] if path.is_dir() else [path]
    file = next((place for place in places if place.is_file()), path)
    if not file.is_file() or file.suffix not in (".safetensors", *_PICKLED):
        raise ValueError(
            f"weights must be an existing .safetensors file, one of {', '.join(_PICKLED)}, or a "
            f"folder that holds {' or '.join(_IN_FOLDERS)}; got {str(path)!r}"
        )
    return file


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a state dict without running any code in the file.

    Parameters
    ----------
    file : Path
        As returned by `locate`. Memory-mapped, except in PyTorch's format before version 1.6.

    Returns
    -------
    state : dict of str to Tensor
        On the CPU. Taken from ``state_dict`` or ``model`` if it is nested there; prefixes of
        wrapped modules are removed. Hugging Face's names in DINOv2 become its authors' names.

    Raises
    ------
    ValueError
        The file is damaged, unpacks to more than its size, or holds anything but plain tensors.
    """
    content = _map(file) if file.suffix == ".safetensors" else _unpickle(file)
    if isinstance(content, Mapping):
        nested = (content.get(key) for key in _NESTED)
        content = next((inner for inner in nested if isinstance(inner, Mapping)), content)
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{str(file)!r} holds no state dict, at the top level or under {_NESTED}")
    odd = next((k for k, v in content.items() if not isinstance(k, str) or not _plain(v)), None)
    if odd is not None:
        raise ValueError(
            f"{str(file)!r} holds {odd!r}, which is not a plain tensor of numbers; a state dict is "
            f"expected at the top level or under {_NESTED}. Save it alone: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        )
    return _dinov2({_unwrapped(key): value for key, value in content.items()})


def is_dinov2(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict has the names of DINOv2's authors, which timm recognizes."""
    return "mask_token" in state


def check_config(file: Path, backbone: nn.Module) -> None:
    """Refuse a backbone whose number of heads differs from the config beside the weights.

    The shapes of the weights do not show it, so the error would go unnoticed.
    """
    config = file.with_name("config.json")
    if not config.is_file():
        return
    try:
        stated = json.loads(config.read_text(encoding="utf-8")).get("num_attention_heads")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{str(config)!r} is not the config of a model; download it again, or remove it"
        ) from error
    blocks = getattr(backbone, "blocks", [None])
    heads = getattr(getattr(blocks[0], "attn", None), "num_heads", None)
    if stated is not None and heads is not None and stated != heads:
        raise ValueError(
            f"{str(config)!r} states {stated!r} attention heads, but the encoder has {heads}; "
            "choose the encoder that the weights belong to"
        )


def summary(error: Exception) -> str:
    """Shorten PyTorch's message about weights that do not fit to the first few of each kind."""
    message = str(error)
    missing, unexpected = (
        re.findall(r"'(\S+?)'", listed.group().replace('"', "'")) if listed else []
        for listed in (
            re.search(rf"^\s*{kind} key\(s\) in state_dict: .*$", message, re.MULTILINE)
            for kind in ("Missing", "Unexpected")
        )
    )
    shapes = re.findall(
        r"size mismatch for (\S+): .* shape torch\.Size\((.*?)\) .* is torch\.Size\((.*?)\)",
        message,
    )
    parts = []
    if missing:
        parts.append(f"missing: {_first(missing)}")
    if unexpected:
        parts.append(f"unexpected: {_first(unexpected)}")
    if shapes:
        parts.append(_first([f"{name} has shape {has}, not {need}" for name, has, need in shapes]))
    return "; ".join(parts) or "they are those of another kind of network"


def _first(items: list[str]) -> str:
    return ", ".join(items[:3]) + f" (the first of {len(items)})" * (len(items) > 3)


def _map(file: Path) -> Any:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{str(file)!r} is damaged, cut short or not a safetensors file; download or copy it "
            "again"
        ) from error


def _unpickle(file: Path) -> Any:
    try:
        archive = zipfile.is_zipfile(file)
        if not (archive and _is_compressed(file)):
            try:
                return torch.load(file, map_location="cpu", weights_only=True, mmap=archive)
            except UnpicklingError as error:
                if _OPTIONS not in str(error):
                    raise
            return torch.load(_with_plain_options(file), map_location="cpu", weights_only=True)
    except Exception as error:  # A malicious file may make the reader raise anything.
        # PyTorch's own message is not passed on: it suggests running what it refused.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise ValueError(
                f"{str(file)!r} is damaged, cut short or not a file of weights written by PyTorch; "
                "download or copy it again"
            ) from None
        raise ValueError(
            f"{str(file)!r} is refused: it asks for {asked[1]}, which is not a weight. None of its "
            "code was run. If you trust its source, load it where it was made and save only its "
            "weights: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from None
    raise ValueError(
        f"{str(file)!r} unpacks to more than its size, unlike files written by PyTorch; it may be "
        "a zip bomb"
    )


def _with_plain_options(file: Path) -> BytesIO:
    """Copy a file of weights, with the options of a script as a class that PyTorch reads."""
    theirs, plain = (f"c{path.replace('.', chr(10))}\n".encode() for path in (_OPTIONS, _PLAIN))
    if not zipfile.is_zipfile(file):
        return BytesIO(file.read_bytes().replace(theirs, plain))
    copy = BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w") as other:
        for member in archive.infolist():
            content = archive.read(member)
            pickled = member.filename.endswith("data.pkl")
            other.writestr(member.filename, content.replace(theirs, plain) if pickled else content)
    copy.seek(0)
    return copy


def _is_compressed(file: Path) -> bool:
    """Tell whether a zip file could unpack to more bytes than it has."""
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
        # A view may claim far more numbers than the file has.
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
    # timm recognizes the layout by the token that masked patches in training, and drops it.
    renamed.setdefault("mask_token", torch.zeros(1))
    return renamed
