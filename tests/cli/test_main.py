"""What all commands have in common."""

import os
import subprocess
import sys

import numpy as np
import pytest

import otcxr_sk
from otcxr_sk.cli import main
from otcxr_sk.cli._main import commands

COMMANDS = sorted(commands.commands)


def started(*arguments, **options):
    command = [sys.executable, "-m", "otcxr_sk", *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, check=False, **options)


def test_without_a_command_the_help_is_shown(run):
    status, out, error = run()
    assert (status, out) == (2, b"")
    assert error == run("--help")[1].decode()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_examples_and_what_each_option_does(command, run):
    status, out, error = run(command, "--help")
    text = out.decode()
    assert (status, error) == (0, "")
    assert f"Examples:\n    otcxr-sk {command}" in text
    assert "\\" not in text
    assert all(getattr(one, "help", "") != "" for one in commands.commands[command].params)
    assert all(
        one.help or "[default" in text
        for one in commands.commands[command].params
        if one.param_type_name == "option"
    )


def test_the_help_tells_the_exit_statuses(run):
    _, out, _ = run("--help")
    text = " ".join(out.decode().split())
    assert "0 all is well, 1 problems were found or the command failed, 2" in text
    assert "130 it was interrupted" in text
    assert "..." not in text.partition("Examples:")[0].partition("Commands:")[2]


def test_help_and_version_load_nothing_heavy(loaded_by):
    calls = [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)]
    loaded = loaded_by(
        "import io; from otcxr_sk.cli import main; out, sys.stdout = sys.stdout, io.StringIO(); "
        f"[main(one) for one in {calls}]; sys.stdout = out"
    )
    assert not {"torch", "numpy", "sklearn", "timm", "PIL", "pydicom"} & loaded


def test_the_version_is_that_of_the_package(run):
    assert run("--version")[1].decode().split()[-1] == otcxr_sk.__version__


def test_the_package_itself_is_the_command_line():
    done = started("--version", stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout.decode().split()[0]) == (0, "otcxr-sk,")


def test_a_shell_completes_commands():
    done = started(
        stdout=subprocess.PIPE,
        env={
            **os.environ,
            "_OTCXR_SK_COMPLETE": "bash_complete",
            "COMP_WORDS": "otcxr-sk em",
            "COMP_CWORD": "1",
        },
    )
    assert done.stdout.decode().split() == ["plain,embed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embd"], "there is no command 'embd' (did you mean 'embed'?)"),
        (["embed"], "Missing argument 'MODEL'."),
        (["embed", "m", ""], "the path is empty; is a variable of the shell not set?"),
        (["demo", "--out", ""], "the path is empty"),
        (["embed", "-", "x"], "this is no stream"),
        (["pretrain", "x", "--out", "-"], "this is no stream"),
        (["demo", "--epoch", "x"], "--epochs"),
        (["demo", "--labels", "some.csv"], "--labels needs --data"),
        (["pretrain", "x", "--out", "y", "--set", "epochs"], "--set takes NAME=VALUE"),
        (["embed", "m", "x", "--out", "y.npy", "--format", "csv"], "--format is for stdout"),
    ],
)
def test_a_wrong_call_ends_with_2_and_says_where_help_is(arguments, message, run, tmp_path):
    status, out, error = run(*arguments)
    first, last = error.splitlines()
    assert (status, out) == (2, b"")
    assert message in first
    assert last.startswith("Try 'otcxr-sk")


def test_streams_may_be_closed(monkeypatch):
    for stream in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}", None)
    assert main(["info"]) == 0
    assert main(["inspect", "-"]) == 1
    assert main(["embd"]) == 2


def test_an_npz_needs_patients_only_where_they_are_split(run, model, phantoms, tmp_path):
    npz = tmp_path / "x.npz"
    np.savez(npz, images=phantoms.images[:4])
    assert run("embed", model, npz, "--format", "csv")[0] == 0
    status, out, _ = run("check", npz)
    assert (status, out.splitlines()[0][:38]) == (0, b"4 images; patients are not known, so l")
    made = run("pretrain", npz, "--out", tmp_path / "m", "--encoder", "test_resnet", "--epochs", 0)
    assert made[0] == 0
    status, _, error = run("evaluate", model, npz)
    assert (status, "has no patient_ids" in error) == (1, True)


def test_a_command_ends_quietly_when_its_reader_has_left():
    reader, writer = os.pipe()
    os.close(reader)
    done = started("info", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_rows_end_quietly_when_their_reader_has_left(model, folder, monkeypatch, capfd):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert main(["embed", str(model), str(folder)]) == 1
    assert capfd.readouterr().err == ""
