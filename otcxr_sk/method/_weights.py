"""Reads weights of encoders from local files, under names that timm knows."""

import os
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from otcxr_sk._files import open_file, read_file
from otcxr_sk._json import parse
from otcxr_sk._paths import as_path
from otcxr_sk._quote import listed, quoted
from otcxr_sk._safetensors import LONGEST_NAME, MOST_TENSORS, read_header
from otcxr_sk.method._archive import open_archive
from otcxr_sk.method._pickles import (
    MOST_BYTES,
    MOST_COMMANDS,
    OPTIONS,
    PLAIN,
    TOO_MUCH,
    RefusedError,
    check,
)

_PICKLED = (".pth", ".pt", ".bin", ".tar")
_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")

# Keys under which training scripts save the weights; averaged ones first, as in timm.
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")

# Those of Hugging Face have some kilobytes, those of `save_pretrained` the history of a run.
_LONGEST_CONFIG = 2**24
# Tensors may share their numbers, but not so many that a small file becomes a large network.
_MOST_SHARED = 4
_LARGEST_KERNEL = 32
# A mark, a version, facts of the machine, the content and the names of its storages.
_OLD_PICKLES = 5

# Hugging Face's names in ViT and DINOv2, and timm's or the authors'; replaced in this order.
_TRANSFORMERS = {
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.": "",
    "encoder.layer.": "blocks.",
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "intermediate.dense.": "mlp.fc1.",
    "attention.q_proj.": "attention.attention.query.",
    "attention.k_proj.": "attention.attention.key.",
    "attention.v_proj.": "attention.attention.value.",
    "attention.output.dense.": "attn.proj.",
    "attention.o_proj.": "attn.proj.",
    "output.dense.": "mlp.fc2.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in.": "mlp.w12.",
    "mlp.weights_out.": "mlp.w3.",
    "layernorm.": "norm.",
}
_PREFIX = r"^(vit|dinov2(_with_registers)?)\."
# What is put on top of an encoder: to classify, to pool, to draw what was masked.
_HEADS = ("classifier.", "pooler.", "decoder.")


def locate(path: str | os.PathLike[str]) -> Path:
    """Return the file of weights at a path, which may be a folder from Hugging Face.

    Raises
    ------
    ValueError
        There is no such file, or its format is not supported.
    """
    whole = Path(as_path(path))
    places = [whole / name for name in _IN_FOLDERS] if os.path.isdir(whole) else [whole]
    file = next(filter(os.path.isfile, places), whole)
    if not os.path.isfile(file) or file.suffix not in (".safetensors", *_PICKLED):
        raise ValueError(
            f"weights must be an existing .safetensors file, one of {', '.join(_PICKLED)}, or a "
            f"folder that holds {' or '.join(_IN_FOLDERS)}; got {str(whole)!r}"
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
        wrapped modules are removed. Hugging Face's names in ViT and DINOv2 become those that timm
        reads.

    Raises
    ------
    ValueError
        The file is damaged, unpacks to more than its size, or holds anything but plain tensors.
    """
    content = _map(file) if file.suffix == ".safetensors" else _unpickle(file)
    if isinstance(content, dict):
        # Attributes that a file gave it do not go along.
        content = dict.copy(content)
        nested = (content.get(key) for key in _NESTED)
        content = next((dict.copy(one) for one in nested if isinstance(one, dict)), content)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{str(file)!r} holds no state dict, at the top level or under {_NESTED}")
    content = {k: v.detach() if isinstance(v, Tensor) else v for k, v in content.items()}
    odd = [k for k, v in content.items() if not isinstance(k, str) or not _plain(v)]
    if odd:
        raise ValueError(
            f"{str(file)!r} holds {quoted(odd[0])}, which is not a plain tensor of numbers; a "
            f"state dict is expected at the top level or under {_NESTED}. Save it alone: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        )
    claimed = sum(value.numel() * value.element_size() for value in content.values())
    if (
        claimed > _MOST_SHARED * file.stat().st_size
        or len(content) > MOST_TENSORS
        or max(map(len, content)) > LONGEST_NAME
    ):
        raise ValueError(f"{str(file)!r} claims far more numbers or names than networks have")
    return _as_timm_names({_unwrapped(key): value for key, value in content.items()})


def check_config(file: Path, backbone: nn.Module) -> None:
    """Refuse a backbone whose number of heads differs from the config beside the weights.

    The shapes of the weights do not show it, so the error would go unnoticed. Beside weights of
    networks without heads, a file of this name may be anything.
    """
    blocks = getattr(backbone, "blocks", [None])
    heads = getattr(getattr(blocks[0], "attn", None), "num_heads", None)
    if heads is None:
        return
    config = file.with_name("config.json")
    try:
        stated = parse(read_file(config, _LONGEST_CONFIG)).get("num_attention_heads")
        if type(stated) not in (int, type(None)):
            raise ValueError
    except FileNotFoundError:
        return
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{str(config)!r} is not the config of a model; download it again, or remove it"
        ) from error
    if stated not in (None, heads):
        raise ValueError(
            f"{str(config)!r} states {quoted(stated)} attention heads, but the encoder has "
            f"{heads}; choose the encoder that the weights belong to"
        )


def summary(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Name the first weights of each kind that do not fit a network.

    Parameters
    ----------
    own, given : mapping of str to Tensor
        State dicts of the network and of the file.
    """
    missing = [name for name in own if name not in given]
    # timm drops the token, and resizes the embeddings and sums the channels of the first layer.
    unexpected = [name for name in given if name not in own and name != "mask_token"]
    shapes = [
        f"{quoted(name)} has shape {list(value.shape)}, not {list(own[name].shape)}"
        for name, value in given.items()
        if name in own and not _fits(name, value, own[name])
    ]
    parts = [f"missing: {listed(missing, 3)}"] if missing else []
    parts += [f"unexpected: {listed(unexpected, 3)}"] if unexpected else []
    parts += [", ".join(shapes[:3]) + f" (the first of {len(shapes)})" * (len(shapes) > 3)]
    return "; ".join(filter(None, parts)) or "they are those of another kind of network"


def has_large_kernels(given: Mapping[str, Tensor]) -> bool:
    """Tell whether timm could take hours to resample a kernel as large as an image."""
    return any(
        value.ndim == 4 and max(value.shape[2:]) > _LARGEST_KERNEL and not _is_position(name)
        for name, value in given.items()
    )


def _is_position(name: str) -> bool:
    return "pos" in name.rpartition(".")[2]


def _fits(name: str, value: Tensor, own: Tensor) -> bool:
    if _is_position(name):
        return value.ndim == own.ndim
    folded = own.ndim == 4 and own.shape[1] == 1
    return value.shape == own.shape or (
        folded and value.ndim == 4 and value[:, :1].shape == own.shape
    )


def _map(file: Path) -> Any:
    try:
        with open_file(file) as opened:
            read_header(opened)
        return load_file(file)
    except (ValueError, SafetensorError, OSError) as error:
        raise ValueError(
            f"{str(file)!r} is damaged, cut short or not a safetensors file; download or copy it "
            "again"
        ) from error


def _unpickle(file: Path) -> Any:
    try:
        with open_file(file) as opened:
            # As PyTorch tells them apart.
            archive = opened.read(4) == b"PK\3\4"
            options = _check_archive(opened) if archive else _check_old(opened)
            if options is not None or not archive:
                opened.seek(0)
                content = opened if options is None else options
                return torch.load(content, map_location="cpu", weights_only=True)
        # Mapped, which needs a path.
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except RefusedError as error:
        raise ValueError(
            f"{str(file)!r} is refused: it {error.what}. None of its code was run. If you trust "
            "its source, load it where it was made and save only its weights: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from None
    except Exception:  # A malicious file may make the reader raise anything.
        # PyTorch's own message is not passed on: it suggests running what it refused.
        raise ValueError(
            f"{str(file)!r} is damaged, cut short or not a file of weights written by PyTorch; "
            "download or copy it again"
        ) from None


def _check_archive(file: BinaryIO) -> BytesIO | None:
    """Check what PyTorch would unpickle, and return a copy with plain options if there are any."""
    archive = open_archive(file)
    (pickled,) = [name for name in archive.namelist() if name.lower().endswith("data.pkl")]
    if archive.getinfo(pickled).file_size > MOST_BYTES:
        raise RefusedError(TOO_MUCH)
    content = archive.read(pickled)
    options = check(BytesIO(content), file.seek(0, 2), iter(range(MOST_COMMANDS)))
    if not options:
        return None
    copy = BytesIO()
    with ZipFile(copy, "w") as other:
        for name in archive.namelist():
            other.writestr(
                name, _with_plain(content, options) if name == pickled else archive.read(name)
            )
    copy.seek(0)
    return copy


def _check_old(file: BinaryIO) -> BytesIO | None:
    """Do the same for the format before PyTorch 1.6: pickles, and then the numbers."""
    most = file.seek(0, 2)
    file.seek(0)
    start = BytesIO(file.read(MOST_BYTES))
    commands = iter(range(MOST_COMMANDS))
    options = [place for _ in range(_OLD_PICKLES) for place in check(start, most, commands)]
    if not options:
        return None
    file.seek(0)
    return BytesIO(_with_plain(file.read(), options))


def _with_plain(content: bytes, options: list[int]) -> bytes:
    """Give the options of a script a class that PyTorch reads.

    It would have to be told for all threads that their own runs no code.
    """
    if not all(content.startswith(OPTIONS, place) for place in options):
        raise ValueError
    starts = [0, *(place + len(OPTIONS) for place in options)]
    stops = [*options, len(content)]
    return PLAIN.join(content[a:b] for a, b in zip(starts, stops, strict=True))


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


def _as_timm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    bare = {re.sub(_PREFIX, "", name): v for name, v in state.items()}
    dinov2 = "encoder.layer.0.layer_scale1.lambda1" in bare
    if not dinov2 and "encoder.layer.0.layernorm_before.weight" not in bare:
        return state
    renamed = {}
    for name, value in bare.items():
        if name.startswith(_HEADS):
            continue
        for theirs, ours in _TRANSFORMERS.items():
            name = name.replace(theirs, ours)
        renamed[name] = value
    for name in [name for name in renamed if ".attention.attention.query." in name]:
        parts = [name.replace("query", part) for part in ("query", "key", "value")]
        found = [renamed[part] for part in parts if part in renamed]
        if (
            len(found) == 3
            and len({(part.shape, part.dtype) for part in found}) == 1
            and found[0].ndim
        ):
            joined = name.replace("attention.attention.query", "attn.qkv")
            renamed[joined] = torch.cat(found)
            for part in parts:
                del renamed[part]
    if dinov2:
        # timm recognizes the layout by the token that masked patches in training, and drops it.
        renamed.setdefault("mask_token", torch.zeros(1))
    return renamed
