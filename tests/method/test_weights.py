"""Weights come from other people's files, under other people's names, and run no code."""

import argparse
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from timm.models import _registry
from torch import nn

from otcxr_sk.method._encoders import build_encoder
from otcxr_sk.method._weights import check_config, locate, read_weights, summary

WIDTH, SIDE = 48, 70
WITH_HEADS = SimpleNamespace(blocks=[SimpleNamespace(attn=SimpleNamespace(num_heads=2))])


def build(file, name="test_resnet", size=32):
    return build_encoder(name, size=size, match_stride=16, weights=file)


def randomize(module):
    """Draw every weight anew, so that none has the value that it would have if it were lost."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return module.eval()


@pytest.fixture(scope="module")
def state():
    return randomize(timm.create_model("test_resnet", in_chans=1, num_classes=0)).state_dict()


@pytest.fixture
def small(monkeypatch):
    """Make timm's models of a name small enough for tests."""

    def shrink(name):
        build = partial(timm.model_entrypoint(name), embed_dim=WIDTH, depth=2, num_heads=2)
        monkeypatch.setitem(_registry._model_entrypoints, name, build)
        return name

    return shrink


def hugging_face(kind="Dinov2", **options):
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        **{"image_size": SIDE, "patch_size": 14} | options,
    )
    return randomize(getattr(transformers, f"{kind}Model")(config))


def dense_maps(ours, theirs, size, n_others=1):
    """Return the last maps of an encoder and of Hugging Face's model for the same images."""
    images = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        dense = ours.eval()(images)[1]
        rows = theirs(images.expand(-1, 3, -1, -1)).last_hidden_state[:, n_others:]
    return dense, rows.transpose(1, 2).reshape(dense.shape)


@pytest.mark.parametrize(
    ("name", "kind", "options", "n_others"),
    [
        ("vit_base_patch14_dinov2", "Dinov2", {}, 1),
        ("vit_giant_patch14_dinov2", "Dinov2", {"use_swiglu_ffn": True}, 1),
        ("vit_base_patch14_reg4_dinov2", "Dinov2WithRegisters", {"num_register_tokens": 4}, 5),
    ],
)
def test_dinov2_of_hugging_face_gives_the_maps_that_transformers_gives(
    name, kind, options, n_others, small, tmp_path
):
    theirs = hugging_face(kind, **options)
    theirs.save_pretrained(tmp_path)
    ours = build(tmp_path, small(name), SIDE)
    torch.testing.assert_close(*dense_maps(ours, theirs, SIDE, n_others), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"), [("ViT", {}), ("ViTMAE", {"mask_ratio": 0.0})], ids=["ViT", "ViTMAE"]
)
def test_a_vit_of_hugging_face_gives_the_maps_that_transformers_gives(
    kind, options, small, tmp_path
):
    options |= {"image_size": 64, "patch_size": 16, "intermediate_size": 4 * WIDTH}
    theirs = hugging_face(kind, **options)
    theirs.save_pretrained(tmp_path)
    ours = build(tmp_path, small("vit_base_patch16_224"), 64)
    dense, expected = dense_maps(ours, theirs, 64)
    if kind == "ViTMAE":  # It shuffles patches, whatever the ratio.
        dense, expected = (each.flatten(2).sort(-1).values for each in (dense, expected))
    torch.testing.assert_close(dense, expected, rtol=1e-4, atol=1e-4)


def test_dinov2_may_be_a_file_or_a_folder_pickled_or_within_a_classifier(small, tmp_path):
    from transformers import Dinov2ForImageClassification

    theirs = hugging_face()
    theirs.save_pretrained(tmp_path)
    name = small("vit_base_patch14_dinov2")
    published = read_weights(tmp_path / "model.safetensors")
    expected = build(tmp_path / "model.safetensors", name, SIDE).state_dict()
    (tmp_path / "pickled").mkdir()
    torch.save(
        load_file(tmp_path / "model.safetensors"), tmp_path / "pickled" / "pytorch_model.bin"
    )
    wrapped = Dinov2ForImageClassification(theirs.config)
    wrapped.dinov2.load_state_dict(theirs.state_dict())
    wrapped.save_pretrained(tmp_path / "classifier")
    (tmp_path / "in memory").mkdir()
    # In memory, transformers 5 has other names than in files.
    torch.save(theirs.state_dict(), tmp_path / "in memory" / "pytorch_model.bin")
    for folder in ("pickled", "classifier", "in memory"):
        read = read_weights(locate(tmp_path / folder))
        assert read.keys() == published.keys()
        got = build(tmp_path / folder, name, SIDE).state_dict()
        assert all(value.equal(expected[key]) for key, value in got.items())


@pytest.mark.parametrize("size", [42, 98])
def test_position_embeddings_are_resized_about_as_transformers_does(size, small, tmp_path):
    theirs = hugging_face()
    theirs.save_pretrained(tmp_path)
    ours = build(tmp_path, small("vit_base_patch14_dinov2"), size)
    dense, expected = dense_maps(ours, theirs, size)
    # timm has another bicubic filter, which smooths where the grid becomes coarser.
    assert (dense - expected).norm() < 0.02 * expected.norm()


def test_a_number_of_heads_that_differs_from_the_config_is_refused(small, tmp_path):
    hugging_face().save_pretrained(tmp_path)
    name = small("vit_base_patch14_dinov2")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_attention_heads": 3}))
    with pytest.raises(ValueError, match=r"config\.json' states 3 attention heads.* has 2"):
        build(tmp_path, name, SIDE)
    config.unlink()
    build(tmp_path, name, SIDE)


def test_a_config_beside_a_network_without_heads_may_be_anything(state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    (tmp_path / "config.json").write_text("[of another program]")
    assert build(tmp_path / "w.safetensors").last_shape == (96, 1, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"[",
        b"[]",
        b"\xff{}",
        b'{"num_attention_heads": "\x1b"}',
        b'{"num_attention_heads": ' + b"9" * 5000 + b"}",
        b'{"a": ' + 100_000 * b"[",
        b'{"a": "' + bytes(2**25),
    ],
    ids=["cut", "list", "no text", "text", "digits", "deep", "long"],
)
def test_a_config_that_is_none_is_refused(content, tmp_path):
    config = tmp_path / "config.json"
    config.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json' is not the config") as caught:
        check_config(tmp_path / "model.safetensors", WITH_HEADS)
    assert len(str(caught.value)) < 500
    config.unlink()
    os.mkfifo(config)
    with pytest.raises(ValueError, match=r"config\.json' is not the config"):
        check_config(tmp_path / "model.safetensors", WITH_HEADS)


@pytest.mark.parametrize("lost", ["attention.attention.key.weight", "layer_scale2.lambda1"])
def test_dinov2_that_lacks_a_weight_is_refused(lost, small, tmp_path):
    hugging_face().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    save_file({k: v for k, v in whole.items() if k != f"encoder.layer.1.{lost}"}, file)
    needed = {"attention.attention.key.weight": "attn.qkv.weight"}.get(lost, "ls2.gamma")
    with pytest.raises(ValueError, match=rf"missing: 'blocks\.1\.{needed}'"):
        build(tmp_path, small("vit_base_patch14_dinov2"), SIDE)


def test_dinov2_does_not_fit_another_encoder(tmp_path):
    hugging_face().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors' do not fit 'test_resnet'"):
        build(tmp_path)


def wrap(prefix, state):
    return {prefix + key: value for key, value in state.items()}


LAYOUTS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "best": 0.7},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [{}]}},
    "averaged": lambda state: {"state_dict": {"other": torch.ones(1)}, "state_dict_ema": state},
    "data parallel": lambda state: {"model": wrap("module.", state)},
    "compiled": lambda state: wrap("module._orig_mod.", state),
    "options of timm": lambda state: {"args": argparse.Namespace(lr=1.0), "state_dict": state},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before 1.6"])
def test_pickled_weights_are_found_where_training_scripts_put_them(
    layout, archive, state, tmp_path
):
    file = tmp_path / "weights.pth.tar"
    torch.save(LAYOUTS[layout](state), file, _use_new_zipfile_serialization=archive)
    read = read_weights(file)
    assert read.keys() == state.keys()
    assert all(value.equal(state[key]) for key, value in read.items())


def test_a_file_of_pytorch_is_as_good_as_one_of_safetensors(state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    loaded = build(tmp_path / "w.pt").state_dict()
    same = build(tmp_path / "w.safetensors").state_dict()
    assert loaded.keys() == same.keys()
    assert all(value.equal(same[key]) for key, value in loaded.items())


def test_weights_in_half_precision_become_float32(state, tmp_path):
    halved = {key: value.half() for key, value in state.items()}
    save_file(halved, tmp_path / "w.safetensors")
    loaded = build(tmp_path / "w.safetensors").backbone.state_dict()
    for key, value in loaded.items():
        assert value.dtype == state[key].dtype
        torch.testing.assert_close(value, halved[key].to(value.dtype), rtol=0, atol=0)


def test_resnets_of_torchvision_have_the_names_of_timm(tmp_path):
    theirs = randomize(torchvision.models.resnet18())
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    ours = build(tmp_path / "resnet18.pth", "resnet18", 64).eval()
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    features = nn.Sequential(*list(theirs.children())[:-2])
    with torch.inference_mode():
        expected = features(images.expand(-1, 3, -1, -1))
        error = ours(images)[1] - expected
    assert error.norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet", "caformer_s18"])
def test_a_classifier_is_left_out_in_every_family(name, tmp_path):
    model = randomize(timm.create_model(name, in_chans=1, num_classes=5))
    file = tmp_path / "w.safetensors"
    save_file(model.state_dict(), file)
    backbone = build(file, name, model.pretrained_cfg["input_size"][1]).backbone
    expected = model.state_dict()
    loaded = backbone.state_dict()
    assert loaded.keys() < expected.keys()
    assert all(value.equal(expected[key]) for key, value in loaded.items())


def test_a_whole_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"it asks for torch\.nn.*Linear.*save only its weights"):
        build(tmp_path / "model.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_options_of_a_script_are_read_by_threads_and_no_class_is_allowed_for_them(
    zipped, state, tmp_path
):
    options = argparse.Namespace(lr=1.0, layers=[1, {"a": argparse.Namespace(b=None)}])
    file = tmp_path / "w.pth"
    torch.save({"args": options, "state_dict": state}, file, _use_new_zipfile_serialization=zipped)
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        allowed = torch.serialization.get_safe_globals()
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(read_weights, 8 * [file]))
        assert torch.serialization.get_safe_globals() == allowed
        torch.serialization.clear_safe_globals()
        found.append(read_weights(file))
        assert not torch.serialization.get_safe_globals()
    finally:
        torch.serialization.clear_safe_globals()
    for read in found:
        assert read.keys() == state.keys()
        assert all(value.equal(state[name]) for name, value in read.items())


def test_reading_leaves_the_warnings_of_other_threads_alone(state, tmp_path):
    torch.save(state, tmp_path / "w.pth")
    before = list(warnings.filters), warnings.showwarning
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_weights, 40 * [tmp_path / "w.pth"]))
    assert (list(warnings.filters), warnings.showwarning) == before


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1).expand(10**12),
        torch.zeros(2, dtype=torch.complex64),
        {"b": torch.zeros(2)},
        [torch.zeros(2)],
        3,
    ],
    ids=["claims more than it has", "complex", "nested", "list", "number"],
)
def test_what_is_not_a_plain_tensor_is_refused(value, tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(2), "b": value}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth' holds 'b', which is not a plain tensor"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [torch.zeros(1)], torch.zeros(1)])
def test_what_is_not_a_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth' holds no state dict"):
        read_weights(tmp_path / "w.pth")


def test_the_error_names_the_first_weights_of_each_kind_that_do_not_fit(state, tmp_path):
    file = tmp_path / "w.safetensors"
    keys = [key for key in state if key.endswith("weight")]
    unexpected = {f"projector.{i}": torch.zeros(1) for i in range(9)}
    wrong = {key: torch.zeros(1, 2) for key in keys[5:9]}
    save_file({k: v for k, v in state.items() if k not in keys[:5]} | unexpected | wrong, file)
    with pytest.raises(ValueError, match="do not fit 'test_resnet'") as caught:
        build(file)
    message = str(caught.value)
    assert f"missing: {keys[0]!r}, {keys[1]!r}, {keys[2]!r}, ... (5 in all)" in message
    assert "unexpected: 'projector.0', 'projector.1', 'projector.2', ... (9 in all)" in message
    assert f"{keys[5]!r} has shape [1, 2], not [" in message
    assert "(the first of 4)" in message
    assert "They must be all weights of this encoder" in message
    assert len(message) < 1000


def test_weights_that_are_not_finite_are_refused(state, tmp_path):
    key = next(key for key in state if key.endswith("bias"))
    bad = torch.full_like(state[key], torch.nan)
    save_file({**state, key: bad}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=rf"w\.safetensors' are not finite: '{key}'"):
        build(tmp_path / "w.safetensors")


def test_a_classifier_alone_is_refused(tmp_path):
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w\.safetensors' are those of a classifier only"):
        build(tmp_path / "w.safetensors")


def test_a_size_that_does_not_fit_is_not_blamed_on_the_weights(tmp_path):
    model = timm.create_model("test_vit", in_chans=1, num_classes=0)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="image_size=8 is below the stride of 'test_vit'"):
        build(tmp_path / "w.safetensors", "test_vit", 8)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model\.safetensors or pytorch_model\.bin; got"):
        build(tmp_path)


def test_names_of_any_length_are_cut_in_no_time():
    long = "size mismatch for a: x shape torch.Size(1) \x1b[2J" * 20_000
    one = {long: torch.zeros(1), "b": torch.zeros(1), "pos_embed": torch.zeros(1, 5, 2)}
    other = {f"{long}.": torch.zeros(1), "b": torch.zeros(2), "pos_embed": torch.zeros(1, 9, 2)}
    text = summary(one, other)
    assert text.startswith("missing: 'size mismatch for a")
    assert text.endswith("'b' has shape [2], not [1]")
    assert len(text) < 400
    assert text.isprintable()
    assert summary(one, one) == "they are those of another kind of network"


def test_a_kernel_as_large_as_an_image_is_not_resampled(tmp_path):
    state = timm.create_model("test_vit", in_chans=1, num_classes=0).state_dict()
    state["patch_embed.proj.weight"] = torch.zeros(
        *state["patch_embed.proj.weight"].shape[:2], 250, 250
    )
    save_file(state, tmp_path / "w.safetensors")
    words = r"'patch_embed\.proj\.weight' has shape \[64, 1, 250, 250\], not \[64, 1, 16, 16\]"
    with pytest.raises(ValueError, match=words):
        build(tmp_path / "w.safetensors", "test_vit", 160)
