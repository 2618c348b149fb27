"""Folders of `save_pretrained` that are changed, as by an attacker."""

import hashlib
import json

FILES = {"README.md", "SHA256SUMS", "config.json", "encoder.safetensors", "heads.safetensors"}
WEIGHTS = ["encoder.safetensors", "heads.safetensors"]


def sign(folder):
    """Write the checksums of what is there now."""
    (folder / "SHA256SUMS").write_text(
        "".join(
            f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
            for file in sorted(folder.iterdir())
            if file.name != "SHA256SUMS"
        )
    )


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def set_config(folder, **changes):
    """Change values of a configuration, with ``__`` between the levels, and sign it."""
    config = config_of(folder)
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = config
        for name in outer:
            place = place[name]
        place[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    sign(folder)


def mutated(value, rng):
    """Return a JSON value with one part of it changed, removed or put elsewhere."""
    odd = [None, True, -1, 0, 10**9, 1e308, -0.5, "", "x", "resnet18", [], [1], {}, {"a": 1}]
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return odd[rng.integers(len(odd))]
    inner = list(value) if isinstance(value, dict) else range(len(value))
    key = inner[rng.integers(len(inner))]
    copy = value.copy()
    if rng.random() < 0.15:
        del copy[key]
    elif rng.random() < 0.1 and isinstance(copy, dict):
        copy[f"{key}_"] = copy.pop(key)
    else:
        copy[key] = mutated(copy[key], rng)
    return copy
