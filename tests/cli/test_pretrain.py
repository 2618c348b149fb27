import json
import os
import signal
import subprocess
import sys

import pytest
from safetensors.numpy import load

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.estimators import OTCXRClassifier
from otcxr_sk.training import Callback

SMALL = ["--encoder", "test_resnet", "--image-size", "32", "--epochs", "2", "--batch-size", "16"]
pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")


def weights(path):
    return load(path.read_bytes())


def same(first, second):
    return first.keys() == second.keys() and all((first[k] == second[k]).all() for k in first)


class PressCtrlC(Callback):
    def on_epoch_end(self, *_):
        signal.raise_signal(signal.SIGINT)


def test_a_model_knows_its_settings_and_nobody_else(as_json, folder, tmp_path):
    model = tmp_path / "model"
    given = ["--labels", folder / "labels.csv", "--set", "views__erase=0.1", "--seed", "7"]
    status, [told] = as_json("pretrain", folder, "--out", model, *SMALL, *given)
    encoder = OTCXRPretrainer.from_pretrained(model)
    assert (status, told["images"], told["patients"], told["epochs"]) == (0, 64, 16, 2)
    assert told["loss"] == encoder.history_["loss"][-1]
    assert (encoder.views.erase, encoder.random_state, encoder.match_stride) == (0.1, 7, 8)
    assert not any(b"PLANTED" in file.read_bytes() for file in model.iterdir())


def test_after_ctrl_c_the_same_command_goes_on(run, folder, tmp_path, monkeypatch):
    whole, model = tmp_path / "whole", tmp_path / "model"
    files = sorted(folder.glob("*.png"))[:16]
    assert run("pretrain", *files, "--out", whole, *SMALL)[0] == 0
    fit = OTCXRPretrainer.fit
    with monkeypatch.context() as patch:
        patch.setattr(
            OTCXRPretrainer,
            "fit",
            lambda self, *given, **named: fit(
                self.set_params(callbacks=[PressCtrlC()]), *given, **named
            ),
        )
        status, out, error = run("pretrain", *files, "--out", model, *SMALL)
    assert (status, out, model.exists()) == (130, b"", False)
    assert f"the run is saved in {model}.run: the same command goes on with it" in error
    status, out, _ = run("info", f"{model}.run")
    assert (status, b"of 2 epochs completed" in out) == (0, True)
    assert run("pretrain", *files, "--out", model, *SMALL)[0] == 0
    assert same(weights(whole / "encoder.safetensors"), weights(model / "encoder.safetensors"))


@pytest.mark.slow
@pytest.mark.xdist_group("distributed")
def test_of_several_processes_one_tells_and_writes(folder, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "otcxr_sk", "pretrain", folder, "--out", tmp_path / "m", *SMALL, "--json"]
    done = subprocess.run(
        [*torchrun, *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=280,
        check=True,
    )
    assert json.loads(done.stdout)["images"] == 64
    assert done.stderr.count("Pre-training on 64 images") == 1
    assert OTCXRPretrainer.from_pretrained(tmp_path / "m").n_epochs_ == 2


def test_what_cannot_begin_leaves_no_run(run, folder, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG")
    status, out, error = run("pretrain", folder, broken, "--out", tmp_path / "m", *SMALL)
    assert (status, out, "broken.png" in error) == (1, b"", True)
    assert [*tmp_path.iterdir()] == [broken]


def test_info_describes_a_model_an_encoder_and_the_installation(run, model):
    assert b"test_resnet" in run("info", model)[1]
    assert b"test_resnet" in run("info", model / "encoder.safetensors")[1]
    assert b"pydicom" in run("info")[1]
    status, out, error = run("info", model.parent)
    assert (status, out, "holds no run" in error) == (1, b"", True)


def test_info_is_json_for_programs(as_json, run, model, folder, tmp_path):
    assert as_json("info")[1][0]["otcxr-sk"]
    _, [found] = as_json("info", model)
    assert (found["estimator"], found["architecture"]["encoder"]) == (
        "OTCXRPretrainer",
        "test_resnet",
    )
    _, [found] = as_json("info", model / "encoder.safetensors")
    assert (found["encoder"], found["weights"] > 1000) == ("test_resnet", True)
    assert run("pretrain", folder, "--out", tmp_path / "m", *SMALL)[0] == 0
    _, [found] = as_json("info", tmp_path / "m.run")
    assert (found["images"], found["epoch"], len(found["history"]["loss"])) == (64, 2, 2)


def test_a_model_is_exported_for_timm_and_onnx(run, model, phantoms, tmp_path):
    out = tmp_path / "encoder.safetensors"
    assert run("export", model, out)[0] == 0
    assert same(weights(out), weights(model / "encoder.safetensors"))

    classifier = OTCXRClassifier(str(model), epochs=1, random_state=0)
    findings = [str(row % 2) for row in range(8)]
    classifier.fit(phantoms.images[:8], findings).save_pretrained(tmp_path / "classifier")
    assert b"OTCXRClassifier" in run("info", tmp_path / "classifier")[1]
    given = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "otcxr_sk.estimators.export_onnx",
            lambda *args: given.append(args[0]) or args[1].touch(),
        )
        assert run("export", tmp_path / "classifier", tmp_path / "c.onnx")[0] == 0
    assert isinstance(given[0], OTCXRClassifier)
