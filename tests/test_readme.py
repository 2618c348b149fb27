"""What the README and the docs show exists and runs."""

import ast
import re
from importlib import import_module
from inspect import signature
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch

from otcxr_sk import OTCXRPretrainer

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def python_blocks(text):
    found = re.findall(r"^ *```python\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    return [dedent(block) for block in found]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")
def test_the_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks(README)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


@pytest.mark.slow
def test_the_examples_of_watching_and_stopping_a_run_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "guide" / "watching.md").read_text(encoding="utf-8")
    sections = page[page.index("## Watch a run") : page.index('## "holds another run"')]
    blocks = python_blocks(sections)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "watching.md", "exec"), names)
    assert len((tmp_path / "runs" / "first.csv").read_text().splitlines()) == 1 + 3


@pytest.mark.slow
def test_the_examples_of_judging_an_embedding_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "guide" / "evaluation.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in python_blocks(page):
        exec(compile(block, "evaluation.md", "exec"), names)
    assert {file.name for file in tmp_path.iterdir()} == {"roc.png", "health.png"}


def test_the_examples_of_passing_an_encoder_on_give_its_embedding(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "guide" / "weights.md").read_text(encoding="utf-8")
    pixels = np.random.default_rng(0).random((8, 32, 32), np.float32)
    encoder = OTCXRPretrainer("test_resnet", image_size=32, epochs=0, random_state=0).fit(pixels)
    embeddings = []
    for block in python_blocks(page[page.index("## Passing an encoder on") :]):
        names = {"encoder": encoder, "images": torch.from_numpy(pixels)[:, None], "torch": torch}
        exec(compile(block, "weights.md", "exec"), names)
        embeddings += [names["embedding"].numpy()] if "embedding" in names else []
    assert len(embeddings) == 2
    for embedding in embeddings:
        np.testing.assert_allclose(embedding, encoder.transform(pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_blocks_name_what_exists(page):
    names = {}
    for block in python_blocks(page.read_text(encoding="utf-8")):
        nodes = list(ast.walk(ast.parse(block)))
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module.startswith("otcxr_sk"):
                room = import_module(node.module)
                names |= {alias.name: getattr(room, alias.name) for alias in node.names}
        for node in nodes:
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in names:
                given = {keyword.arg for keyword in node.keywords} - {None}
                assert given <= signature(names[node.func.id]).parameters.keys(), node.func.id


def test_the_benchmarks_that_pages_name_exist_and_have_their_options():
    sources = sorted((ROOT / "examples" / "benchmarks").rglob("*.py"))
    options = {
        option for file in sources for option in re.findall(r'"(--[a-z-]+)"', file.read_text())
    }
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        text = page.read_text(encoding="utf-8").replace("\\\n", "")
        for script, given in re.findall(r"(examples/[\w/]+\.py)([^\n`]*)", text):
            assert (ROOT / script).exists(), (page.name, script)
            assert set(re.findall(r"--[a-z-]+", given)) <= options, (page.name, script, given)


def test_there_are_two_setup_commands_of_one_line():
    assert len(re.findall(r"^python3 -m venv .+$", README, flags=re.MULTILINE)) == 2


def headings(page):
    """Names that links give to the headings of a page of Markdown."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_local_link_leads_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not heading or heading in headings(target), link


def test_the_readme_leads_to_every_page_of_the_docs():
    reached, found = {ROOT / "README.md"}, [ROOT / "README.md"]
    while found:
        page = found.pop()
        links = re.findall(r"\]\((?!http|#)([^)#]+\.md)", page.read_text(encoding="utf-8"))
        new = {(page.parent / link).resolve() for link in links} - reached
        reached |= new
        found += new
    assert set(PAGES) <= reached
