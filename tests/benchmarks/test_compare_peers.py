"""The comparison of methods: resumable, and joined to earlier tables."""

import re

import compare_peers
import numpy as np
import pytest
from peers import protocol, report
from peers.cache import Cache
from results import read_csv, write_csv
from small_studies import BUDGET, arguments, guess

pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")


@pytest.fixture
def comparison(folder, few_draws):
    """Compares a few methods trained on children, and returns the rows of the CSV file."""

    def run(cache, *methods, pool=("children",)):
        words = ["--epochs", "1", "--image-size", "32", "--seeds", "2"]
        out = folder / "out.md"
        places = ["--cache", str(folder / cache), "--out", str(out)]
        compare_peers.main([*arguments(folder, *pool), *words, *places, "--methods", *methods])
        assert (folder / "figures" / "out.png").stat().st_size
        return read_csv(folder / "data" / "out.csv")

    return run


@pytest.fixture
def runs(monkeypatch):
    """Names of the methods that were run, in order; run number `runs.stop` is interrupted."""

    class Runs(list):
        stop = None

    found, run = Runs(), protocol.Protocol._run

    def counted(self, name, *rest):
        if len(found) == found.stop:
            raise KeyboardInterrupt
        found.append(name)
        return run(self, name, *rest)

    monkeypatch.setattr(protocol.Protocol, "_run", counted)
    return found


def without_cost(rows):
    return [{name: value for name, value in row.items() if name != "cpu_seconds"} for row in rows]


@pytest.mark.slow
def test_every_method_is_evaluated_and_compared_with_ours(comparison, runs):
    methods = ["pixels 16x16", "untrained", "otcxr"]
    rows = comparison("cache", *methods)
    # Methods and seeds, then children, adults, small: tasks, shares and probes, and a mean.
    assert len(rows) == 3 * 2 * ((2 * 2 * 2 + 1) + (3 * 2 + 1) + 2)
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    for row in rows:
        compared = row["ours_less_it_difference"] != ""
        assert compared == (row["method"] != "otcxr" and row["probe"] == "linear")
        assert (row["matching_accuracy"] != "") == (row["method"] != "pixels 16x16")
    # The first seed searches five settings; the other one runs only if the seed matters.
    assert [runs.count(name) for name in methods] == [1, 2, 5 + 1]


@pytest.mark.slow
def test_a_difference_is_one_of_scores(comparison):
    rows = comparison("cache", "untrained", "otcxr")
    keys = ("task", "labels", "probe", "seed")
    score = {(row["method"], *(row[key] for key in keys)): float(row["score"]) for row in rows}
    for row in rows:
        if row["ours_less_it_difference"]:
            here = tuple(row[key] for key in keys)
            gap = score["otcxr", *here] - score["untrained", *here]
            assert float(row["ours_less_it_difference"]) == pytest.approx(gap, abs=2e-5)
            low, high = (float(row[f"ours_less_it_{end}"]) for end in ("low", "high"))
            assert low <= high


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2])
def test_an_interrupted_comparison_ends_the_same_and_repeats_nothing(comparison, runs, stop):
    methods = ["pixels 16x16", "untrained"]
    whole = comparison("whole", *methods)
    assert len(runs) == 3
    del runs[:]
    runs.stop = stop
    with pytest.raises(KeyboardInterrupt):
        comparison("cache", *methods)
    runs.stop = None
    assert without_cost(comparison("cache", *methods)) == without_cost(whole)
    assert len(runs) == 3
    assert without_cost(comparison("cache", *methods)) == without_cost(whole)
    assert len(runs) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
def test_masks_of_phantoms_are_evaluated(tmp_path):
    out = tmp_path / "out.md"
    words = "--phantoms 60 --methods untrained --image-size 32 --seeds 1"
    compare_peers.main([*words.split(), "--cache", str(tmp_path / "cache"), "--out", str(out)])
    rows = read_csv(tmp_path / "data" / "out.csv")
    found = [row for row in rows if row["probe"] == "dense"]
    assert [row["task"] for row in found] == ["lesion masks", "lung masks"] * 2
    assert all(0 <= float(row["score"]) <= 1 for row in found)


@pytest.mark.slow
def test_a_setting_of_another_table_is_used_without_a_search(comparison, tmp_path):
    settings = tmp_path / "settings.csv"
    columns = "method,seed,labels,learning_rate,weight\n"
    settings.write_text(columns + "pca,0,1,,16")
    rows = comparison("cache", "pixels 16x16", "pca", "--settings", str(settings))
    assert {row["method"]: row["weight"] for row in rows} == {"pixels 16x16": "", "pca": "16"}
    assert not list((tmp_path / "cache").glob("selection-*"))
    settings.write_text(columns + "pca,0,1,,17")
    with pytest.raises(SystemExit, match=r"settings.csv names a setting of 'pca'"):
        comparison("cache", "pca", "--settings", str(settings))
    for words in ("method,weight\npca,16", columns, columns + "pca,0,1,,many"):
        settings.write_text(words)
        with pytest.raises(SystemExit, match=r"settings.csv is not a table of this script"):
            comparison("cache", "pca", "--settings", str(settings))


@pytest.mark.slow
def test_a_joined_table_equals_one_made_at_once(comparison, runs, tmp_path):
    whole = comparison("cache", "pixels 16x16", "pca", "untrained", "otcxr")
    part = tmp_path / "part.csv"
    comparison("cache", "pixels 16x16", "untrained", "otcxr")
    (tmp_path / "data" / "out.csv").rename(part)
    options = ["--settings", str(part), "--join", str(part)]
    del runs[:]
    joined = comparison("elsewhere", "pca", "otcxr", *options)
    assert without_cost(joined) == without_cost(whole)
    assert runs.count("otcxr") == 2
    assert not {"pixels 16x16", "untrained"} & set(runs)


@pytest.mark.slow
def test_a_table_of_another_device_can_be_joined_and_says_how_far_scores_differ(
    comparison, runs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(compare_peers, "OURS", "untrained")
    rows, old = comparison("cache", "pixels 16x16", "untrained"), tmp_path / "old.csv"
    assert {row["device"] for row in rows} == {"cpu"}
    # As tables were before there was a choice.
    write_csv(
        [{k: v for k, v in r.items() if k not in ("device", "gpu_seconds")} for r in rows], old
    )
    del runs[:]
    # Another name of the CPU stands for a GPU.
    rows = comparison("cache", "untrained", "--device", "cpu:0", "--join", str(old))
    assert runs == ["untrained"] * 2
    found = {(row["method"], row["device"], row["gpu_seconds"] != "") for row in rows}
    assert found == {("pixels 16x16", "cpu", False), ("untrained", "cpu:0", True)}
    printed = capsys.readouterr().out
    assert "scores of untrained on cpu:0 differ by at most 0.0000, on average 0.0000" in printed
    assert "GPU s" in (tmp_path / "out.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_table_of_other_images_or_epochs_cannot_be_joined(comparison, tmp_path):
    rows = comparison("cache", "pixels 16x16")
    other = tmp_path / "other.csv"
    for column, value in {"pixels": "0" * 16, "epochs": 2, "encoder": None}.items():
        write_csv([rows[0] | {column: value}], other)
        with pytest.raises(SystemExit, match=rf"other.csv has other images .* its {column} is"):
            comparison("cache", "pca", "--join", str(other))


def made_before(rows, tasks):
    """Return rows as a table had them before there were collections, as they are read."""
    new = ("pool", "collection")
    return [
        {name: value for name, value in row.items() if name not in new}
        for row in rows
        if row["task"] in tasks
    ]


@pytest.mark.slow
def test_a_table_of_before_can_be_joined_without_differences_from_another_version(study, tmp_path):
    runs = protocol.Protocol(study, BUDGET, Cache(tmp_path))
    old = {"pca": guess(1), "simclr": guess(3), "otcxr": guess(2)}
    old_rows = made_before(protocol.evaluate(runs, old, seeds=1), study.collections["a"].tasks)

    def joined(ours):
        runs = protocol.Protocol(study, BUDGET, Cache(tmp_path / str(ours)))
        new = {"pca": guess(1), "otcxr": guess(ours)}
        rows = compare_peers.join(protocol.evaluate(runs, new, seeds=1), old_rows, study)
        return rows, [row for row in rows if row["method"] == "simclr"]

    for ours in (2, 4):
        rows, simclr = joined(ours)
        assert {row["method"] for row in rows} == {"pca", "simclr", "otcxr"}
        assert [row["task"] for row in simclr[::4]] == ["task 10", "task 11", "mean of a"]
        assert {(row["pool"], row["collection"]) for row in simclr} == {("a", "a")}
        *each, mean = [row for row in simclr if row["probe"] == "linear"]
        assert mean["score"] == pytest.approx(np.mean([row["score"] for row in each]))
        assert mean["ours_less_it_difference"] is None
        for row in each:
            assert (row["ours_less_it_low"] is None) == (ours == 4)
    compare_peers.write_csv(rows, tmp_path / "t.csv", digits=5)
    again = compare_peers.read_rows(tmp_path / "t.csv")
    compare_peers.write_tables(again, tmp_path / "t.md", study.overview(), ["A caveat."])
    compare_peers.write_figure(again, tmp_path / "t.png", study.overview())
    text = (tmp_path / "t.md").read_text(encoding="utf-8")
    assert "\nA caveat.\n" in text
    row = next(line for line in text.splitlines() if line.startswith("| simclr |"))
    # Mean, two tasks with two shares; then what nobody had asked then, and no facts.
    assert [bool(cell.strip()) for cell in row.split("|")[2:11]] == [True] * 5 + [False] * 4


def test_without_lightly_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(compare_peers, "available", lambda: {"otcxr": None, "imagenet": None})
    for names in (None, ["simclr"]):
        with pytest.raises(SystemExit, match=r"otcxr-sk\[benchmarks\]"):
            compare_peers.chosen_methods(names)


def test_the_overview_shows_means_of_tasks_over_seeds_with_the_best_in_bold(tmp_path):
    scores = {"pixels": [(0.5, 0.7), (0.6, 0.8)], "otcxr": [(0.7, 0.8), (0.8, 0.9)]}
    known = {"probe": "linear", "labels": 0.1, "weight": None, "learning_rate": 0.01}
    known |= {"matching_accuracy": None, "matching_chance": None, "cpu_seconds": 3.2}
    rows = [
        {"method": method, "seed": seed, "task": task, "score": score, **known}
        | {"ours_less_it_difference": None}
        for method, of_seeds in scores.items()
        for seed, of_tasks in enumerate(of_seeds)
        for task, score in zip("ab", of_tasks, strict=True)
    ]
    report.write_tables(rows, tmp_path / "out.md", {"mean": ("a", "b")})
    text = (tmp_path / "out.md").read_text(encoding="utf-8")
    overview, *tables = re.split(r"^## .*$", text, flags=re.MULTILINE)
    assert "| pixels | 0.650 ± 0.071 |  |  | 3 | 0.01 |  |" in overview
    assert "| otcxr | **0.800 ± 0.071** |  |  | 3 | 0.01 |  |" in overview
    assert "| pixels | 0.550 ± 0.071 |\n| otcxr | **0.750 ± 0.071** |" in tables[0]


def test_a_method_that_was_not_compared_with_ours_shows_no_difference(tmp_path):
    known = {"task": "a", "probe": "linear", "labels": 1.0, "seed": 0, "score": 0.5}
    known |= {column: None for column, _ in report.FACTS.values()}
    rows = [
        {"method": name, **known}
        | {f"ours_less_it_{part}": value for part in ("difference", "low", "high")}
        for name, value in {"pixels": 0.1, "pca": None, "otcxr": None}.items()
    ]
    report.write_tables(rows, tmp_path / "out.md", {"a": ("a",)})
    text = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert "| pixels | +0.100 (+0.100 to +0.100) |\n| pca |  |\n" in text


def test_a_task_that_no_method_has_scores_for_has_no_panel(tmp_path):
    pytest.importorskip("matplotlib", reason="needs otcxr-sk[plots]")
    known = {"method": "pca", "probe": "linear", "labels": 1.0, "score": 0.5}
    rows = [{**known, "task": "a", "seed": seed} for seed in range(2)]
    overviews = {"one": {"a": ("a",)}, "two": {"a": ("a",), "masks": ("masks",)}}
    for name, overview in overviews.items():
        report.write_figure(rows, tmp_path / name, overview)
    one, two = ((tmp_path / f"{name}.png").read_bytes() for name in overviews)
    assert one == two
