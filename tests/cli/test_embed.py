import io
import os
import stat

import numpy as np
import pandas as pd
import pytest

from otcxr_sk import OTCXRPretrainer

READ = {
    "npy": lambda content: np.load(io.BytesIO(content)),
    "csv": lambda content: pd.read_csv(io.BytesIO(content), dtype=np.float32).iloc[:, 1:].values,
    "parquet": lambda content: pd.read_parquet(io.BytesIO(content)).iloc[:, 1:].values,
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    """Several parts, the last of them smaller."""
    monkeypatch.setattr("otcxr_sk.cli._embed._AT_ONCE", 24)


@pytest.mark.parametrize("form", READ)
def test_every_format_holds_what_transform_returns(form, run, folder, model, embedding, tmp_path):
    out = tmp_path / f"e.{form}"
    assert run("embed", model, folder, "--out", out)[:2] == (0, b"")
    np.testing.assert_array_equal(READ[form](out.read_bytes()), embedding)
    assert b"PLANTED" not in out.read_bytes()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


@pytest.mark.parametrize("form", READ)
def test_every_format_goes_to_stdout(form, run, folder, model, embedding):
    status, out, error = run("embed", model, folder, "--format", form)
    assert (status, error) == (0, "")
    np.testing.assert_array_equal(READ[form](out), embedding)


@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_paths_on_stdin_are_rows_in_their_order(end, run, folder, model, embedding, on_stdin):
    files = sorted(folder.glob("*.png"), reverse=True)
    on_stdin(b"".join(str(file).encode() + end for file in files))
    _, out, _ = run("embed", model, "-", "--format", "npy")
    np.testing.assert_array_equal(READ["npy"](out), embedding[::-1])


def test_a_name_on_stdin_may_have_any_character(run, folder, model, embedding, on_stdin, tmp_path):
    files = [tmp_path / name for name in ("line\nbreak.png", "page\x0cbreak.png", "\u2028.png")]
    for file, source in zip(files, sorted(folder.glob("*.png")), strict=False):
        file.write_bytes(source.read_bytes())
    for given in (
        b"".join(os.fsencode(file) + b"\0" for file in files),
        b"\xef\xbb\xbf" + b"".join(os.fsencode(file) + b"\r\n" for file in files[1:]),
    ):
        on_stdin(given)
        rows = READ["npy"](run("embed", model, "-", "--format", "npy")[1])
        np.testing.assert_array_equal(rows, embedding[:3][-len(rows) :])
        assert len(rows) == given.count(b".png")


def test_a_file_may_be_called_as_a_stream_is(run, folder, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_bytes((folder / "PLANTED-00.png").read_bytes())
    assert run("embed", model, "./-") == run("embed", model, folder / "PLANTED-00.png")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("form", READ)
def test_a_message_names_the_row_of_the_whole(form, run, folder, model, tmp_path):
    broken = tmp_path / "row 3, 'x.npy"
    np.save(broken, np.full((8, 8), np.nan, np.float32))
    given = [model, *sorted(folder.glob("*.png"))[:25], broken, "--out", tmp_path / f"e.{form}"]
    row = f"row 25, file {str(broken)!r}: "
    _, _, error = run("embed", *given)
    assert error.startswith(f"otcxr-sk: {row}")
    status, _, error = run("embed", *given, "--on-error", "warn")
    assert status == 0
    assert f"  {row}" in error


def test_columns_are_named_as_in_a_data_frame_of_scikit_learn(run, folder, model):
    _, out, _ = run("embed", model, folder / "PLANTED-00.png")
    names = OTCXRPretrainer.from_pretrained(model).get_feature_names_out()
    assert out.decode().splitlines()[0].split(",") == ["row", *names]


@pytest.mark.filterwarnings("default")
def test_an_image_that_cannot_be_read_may_cost_its_row_alone(
    run, folder, model, embedding, tmp_path
):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG")
    given = [folder / "PLANTED-00.png", broken, folder / "PLANTED-01.png"]
    status, out, error = run("embed", model, *given, "--format", "npy", "--on-error", "warn")
    assert status == 0
    rows = READ["npy"](out)
    np.testing.assert_array_equal(rows[[0, 2]], embedding[:2])
    assert np.isnan(rows[1]).all()
    assert "warning: 1 of 3 images cannot be used" in error


def test_after_ctrl_c_nothing_is_left(run, folder, model, tmp_path, monkeypatch):
    transform, calls = OTCXRPretrainer.transform, []

    def second_is_interrupted(self, X, **options):
        calls.append(len(X))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return transform(self, X, **options)

    monkeypatch.setattr(OTCXRPretrainer, "transform", second_is_interrupted)
    status, _, error = run("embed", model, folder, "--out", tmp_path / "e.csv")
    assert (status, calls, [*tmp_path.iterdir()]) == (130, [24, 24], [])
    assert error.strip() == "otcxr-sk: interrupted; nothing is half written"
