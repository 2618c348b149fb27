"""What `import otcxr_sk.training` offers, and what it costs."""

import pytest

import otcxr_sk.training


@pytest.mark.parametrize(
    "names",
    [
        "Callback, EarlyStopping, TimeLimit, CSVLogger, TensorBoardLogger",
        "Checkpoint, Optimizer",
        "describe",
    ],
)
def test_callbacks_parameters_and_descriptions_load_no_torch(names, loaded_by):
    assert not {"torch", "timm", "sklearn", "lightning_fabric"} & loaded_by(
        f"from otcxr_sk.training import {names}"
    )


def test_the_names_are_listed_and_there_are_no_others():
    assert dir(otcxr_sk.training) == sorted(otcxr_sk.training.__all__)
    with pytest.raises(AttributeError, match=r"otcxr_sk\.training.* has no attribute 'Trainers'"):
        otcxr_sk.training.Trainers  # noqa: B018


def test_a_dependency_that_breaks_on_import_is_named(monkeypatch):
    from otcxr_sk import _face

    def broken(name):
        raise AttributeError("module numpy has no attribute 'float_'")

    load, _ = _face.lazy_face("package", ["name"], ["_home"])
    monkeypatch.setattr(_face, "import_module", broken)
    with pytest.raises(ImportError, match=r"cannot import package\._home: module numpy has no"):
        load("name")
