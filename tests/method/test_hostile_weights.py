"""Hostile files of weights and of runs: a result or an error that names the file, in bounds."""

import argparse
import contextlib
import io
import json
import os
import pickle
import struct
import zipfile
from functools import partial

import mutants
import pytest
import torch
from bounded import MEBIBYTES, SECONDS, damaged
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from otcxr_sk.method._pickles import MOST_BYTES, MOST_COMMANDS, check
from otcxr_sk.method._weights import read_weights

TENSORS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2)}

RUN = {
    "run": {
        "otcxr_sk": "0.2.0",
        "seed": 1,
        "images": {"number": 10},
        "scan": {"unusable": [3]},
        "n_training": 9,
        "parameters": {"epochs": 3, "encoder": "resnet18", "weights": None, "alpha": 1.0},
    },
    "epoch": 2,
    "step": 1,
    "steps": 4,
    "stopped": False,
    "seconds": 5.0,
    "history": {"loss": [2.0, 1.0], "knn_probe": [float("nan"), 0.5]},
}


def by_torch(content, archive=True):
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=archive)
    return stream.getvalue()


NESTED = {"state_dict": TENSORS, "args": argparse.Namespace(lr=1.0), "epoch": 3}
KINDS = {
    "w.safetensors": (mutants.of_safetensors, save(TENSORS, {"format": "pt"})),
    "w.pth": (mutants.of_zip, by_torch(NESTED)),
    "w.pt": (damaged, by_torch(TENSORS, archive=False)),
    "config.json": (mutants.of_json, json.dumps({"num_attention_heads": 12, "a": [1]}).encode()),
    "run": (mutants.of_safetensors, save(TENSORS, {"format": "2", "numbers": json.dumps(RUN)})),
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [20, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_mutant_is_a_result_or_an_error_in_bounds(number, tmp_path):
    for kind, (mutate, whole) in KINDS.items():
        mutants.write_mutants(tmp_path, kind, mutate, whole, number)
    reports = mutants.reports_on(tmp_path)
    for kind, name, end, seconds, mebibytes in reports:
        assert end in ("result", "error"), (kind, name, end)
        assert seconds < SECONDS, (kind, name, seconds)
        assert mebibytes < MEBIBYTES, (kind, name, mebibytes)
    # The damage must neither be too light to matter nor always be found.
    ends = [(kind, end) for kind, _, end, *_ in reports]
    for kind in KINDS:
        for end in ("result", "error"):
            assert ends.count((kind, end)) >= number // 60, (kind, end)


def called(name):
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def whole_number(value):
    content = pickle.encode_long(value)
    return b"\x8a" + bytes([len(content)]) + content


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


DOUBLED = b"h\x00h\x00\x86q\x00"
HUGE = whole_number(2**36)
STORAGE = text("storage") + called("torch FloatStorage") + text("0") + text("cpu")

PICKLES = {
    "key of 2**60 parts": b"})q\x00" + 60 * DOUBLED + b"Ns",
    "value of 2**60 parts": b")q\x00" + 60 * DOUBLED,
    "list that holds itself": b"]q\x00h\x00a",
    "10,000 levels": b")" + 10_000 * b"\x85",
    "keys that collide": b"}("
    + b"".join(whole_number(i * (2**61 - 1)) + b"N" for i in range(1, 9999))
    + b"u",
    "long text, often": b"](" + text("x" * 2**20) + b"q\x00" + 100_000 * b"h\x00" + b"e",
    "bytearray": called("__builtin__ bytearray") + HUGE + b"\x85R",
    "tensor of a size": called("torch Tensor") + HUGE + b"\x85R",
    "storage that is called": called("torch.storage UntypedStorage") + HUGE + b"\x85R",
    "storage that is not there": b"(" + STORAGE + HUGE + b"tQ",
    "many calls": b"]("
    + called("collections OrderedDict")
    + b"q\x00)R"
    + 33_000 * b"h\x00)R"
    + b"e",
    "many commands": b"](" + 400_000 * b"(" + b"e",
    "escaped name": called("\\x61rgparse Namespace") + b")\x81}b",
}


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before 1.6"])
def test_a_pickle_that_is_a_bomb_is_refused_before_it_is_followed(archive, tmp_path, monkeypatch):
    file = tmp_path / "w.pth"
    written = by_torch(TENSORS, archive)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was followed"))
    # The checks are the same for both.
    for commands in list(PICKLES.values())[: None if archive else 2]:
        bomb = b"\x80\x02" + commands + b"."
        if archive:
            with (
                zipfile.ZipFile(io.BytesIO(written)) as whole,
                zipfile.ZipFile(file, "w") as other,
            ):
                for member in whole.namelist():
                    other.writestr(
                        member, bomb if member.endswith("data.pkl") else whole.read(member)
                    )
        else:
            file.write_bytes(bomb + written)
        with pytest.raises(ValueError, match=r"w\.pth' is (refused|damaged)"):
            read_weights(file)


def test_a_checkpoint_of_the_largest_networks_is_within_the_limits():
    one = torch.ones(1)
    state = {f"stages.0.blocks.{i}.conv.weight": one.view(1) for i in range(2200)}
    moments = {i: {"exp_avg": one.view(1), "exp_avg_sq": one.view(1)} for i in range(1000)}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.1, "params": list(moments)}]}
    content = {"state_dict": state, "state_dict_ema": {**state}, "optimizer": optimizer}
    with zipfile.ZipFile(io.BytesIO(by_torch(content))) as archive:
        pickled = archive.read("archive/data.pkl")
    assert len(pickled) < MOST_BYTES
    assert check(io.BytesIO(pickled), 4, iter(range(MOST_COMMANDS))) == []


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before 1.6"])
def test_what_training_scripts_save_with_weights_is_read(archive, tmp_path):
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    kinds = ["float16", "bfloat16", "int64", "bool"]
    kinds += ["float8_e4m3fn", "uint16"] if archive else []
    state = {kind: torch.zeros(2, dtype=getattr(torch, kind)) for kind in kinds}
    file = tmp_path / "w.pth"
    content = {
        "model": {**state, **dict(layer.named_parameters()), "buffer": torch.arange(4.0)[::2]},
        "optimizer": optimizer.state_dict(),
        "schedule": torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 5]).state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "args": argparse.Namespace(dtype=torch.float16, size=torch.Size([1]), b=(0.9, 0.99)),
        "module": layer.state_dict(),
        "best": {0.5: -1, 140_012_345_678_901: 2**100},
        "generator": torch.get_rng_state(),
    }
    torch.save(content, file, _use_new_zipfile_serialization=archive)
    read = read_weights(file)
    assert all(type(value) is torch.Tensor and not value.requires_grad for value in read.values())
    for name, value in content["model"].items():
        assert read[name].dtype == value.dtype
        assert read[name].double().equal(value.detach().double())


def test_a_zip_file_with_two_directories_or_anything_around_it_is_refused(tmp_path):
    file, whole = tmp_path / "w.pth", by_torch(TENSORS)
    end = len(whole) - 98
    record = whole[end:]
    length, start = struct.unpack("<2Q", record[40:56])
    directory = whole[start : start + length]
    for content in (
        b"PK\3\4" + whole,
        whole + b"\0",
        whole[:-2] + b"\1\0x",
        whole[:end] + directory + record,
        whole[:end] + b"\0" + record,
        whole[:end] + record[-22:-6] + struct.pack("<LH", 0, 0),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"w\.pth' is damaged"):
            read_weights(file)
    file.write_bytes(whole)
    assert read_weights(file).keys() == TENSORS.keys()


def test_tensors_that_share_their_numbers_do_not_become_a_large_network(tmp_path):
    shared = torch.ones(10_000)
    torch.save({f"layer{i}": shared for i in range(3)}, tmp_path / "tied.pth")
    assert len(read_weights(tmp_path / "tied.pth")) == 3
    torch.save({f"layer{i}": shared for i in range(1000)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth' claims far more numbers"):
        read_weights(tmp_path / "w.pth")


class Code:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize(
    "write",
    [
        partial(by_torch, archive=True),
        partial(by_torch, archive=False),
        partial(pickle.dumps, protocol=2),
    ],
    ids=["archive", "before 1.6", "pickle"],
)
@pytest.mark.parametrize("forced", [False, True])
def test_code_is_refused_and_not_run(write, forced, tmp_path, monkeypatch):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    trace, file = tmp_path / "trace", tmp_path / "weights.pth"
    code = Code(f"echo > {trace}")
    file.write_bytes(write({"state_dict": {}, "extra": code}))
    with pytest.raises(
        ValueError, match=r"weights\.pth' is refused: it asks for \S*system"
    ) as caught:
        read_weights(file)
    assert "None of its code was run" in str(caught.value)
    assert caught.value.__suppress_context__  # PyTorch's advice is to run it.
    assert not trace.exists()
    pickle.loads(pickle.dumps(code))
    assert trace.exists()


FILES = {name: whole for name, (_, whole) in KINDS.items() if name.startswith("w.")}


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_a_file_truncated_anywhere_is_refused_by_name(name, data, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / name
    whole = FILES[name]
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ValueError, match=name):
        read_weights(file)


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_a_file_with_wrong_bytes_is_refused_or_gives_tensors(name, data, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / name
    content = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    # A changed header may name other numbers; what is not refused are tensors all the same.
    with contextlib.suppress(ValueError):
        assert all(isinstance(value, torch.Tensor) for value in read_weights(file).values())


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", bytes(100_000_000))
    assert packed.stat().st_size < 200_000
    overlapping = tmp_path / "overlapping.pth"
    with zipfile.ZipFile(overlapping, "w") as archive:
        archive.writestr("w/data.pkl", bytes(1000))
        archive.filelist += 100 * archive.filelist
    for file in (packed, overlapping):
        with pytest.raises(
            ValueError, match=rf"{file.name}' is refused: it unpacks to more than its size"
        ):
            read_weights(file)


def test_a_header_that_claims_more_than_the_file_has_is_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    for tensor in (
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": [1] * 200_000, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
    ):
        header = json.dumps({"a": tensor}).encode()
        file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        with pytest.raises(ValueError, match=r"w\.safetensors' is damaged"):
            read_weights(file)
