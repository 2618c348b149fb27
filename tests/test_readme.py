"""What the README and the docs show exists and runs."""

import ast
import re
import tomllib
from importlib import import_module
from inspect import signature
from pathlib import Path
from shutil import copyfile
from textwrap import dedent

import joblib
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

import otcxr_sk
from otcxr_sk import OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_extra_that_is_named_exists_and_is_told_of():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"])
    sources = [path for part in ("otcxr_sk", "examples") for path in (ROOT / part).rglob("*.py")]
    # The changelog names those of the past.
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]
    text = "".join(path.read_text(encoding="utf-8") for path in [*sources, *pages])
    named = re.findall(r"(?:otcxr-sk|\"\.)\[([\w,]+)\]", text)
    named += re.findall(r"extra [`\"]+(\w+)", text)
    assert {one for names in named for one in names.split(",")} <= extras
    table = (ROOT / "docs" / "install.md").read_text(encoding="utf-8").partition("## Extras")[2]
    assert {one for one in extras if f"`{one}`" in table} == extras


def python_blocks(text, runnable=False):
    """Return the blocks of Python; only those that need nothing of a reader's if `runnable`.

    The others come after a comment that says what they need; readers of the site do not see it.
    """
    pattern = r"^( *<!-- not run: [^\n]+ -->\n)? *```python\n(.*?)^ *```"
    found = re.findall(pattern, text, flags=re.DOTALL | re.MULTILINE)
    return [dedent(block) for comment, block in found if not (runnable and comment)]


# Their own tests look at what these give.
LOOKED_AT = {"after-training.md", "sharing.md", "weights.md"}
RUN = [
    page
    for page in PAGES
    if python_blocks(page.read_text(encoding="utf-8"), runnable=True) and page.name not in LOOKED_AT
]
WRITTEN = {
    "evaluation.md": {"roc.png", "health.png"},
    "reporting.md": {"report.html"},
    "seeing.md": {"history.png", "embedding.png", "explanation.png"},
}


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Stands where a reader of the docs does: with files, and with no time for a long run."""
    make = OTCXRPretrainer.__init__
    monkeypatch.setattr(make, "__defaults__", ("test_resnet",))
    monkeypatch.setattr(
        make, "__kwdefaults__", make.__kwdefaults__ | {"image_size": 32, "epochs": 1}
    )
    folder = tmp_path / "reader"
    for name in ("images", "2021", "2022", "2023", "dicom"):
        (folder / name).mkdir(parents=True)
    pixels = make_chest_phantoms(2, image_size=32, random_state=0).images
    for row, image in enumerate(pixels):
        for name in ("images", "2021", "2022", "2023"):
            Image.fromarray(image).save(folder / name / f"{row}.png")
    copyfile(get_testdata_file("CT_small.dcm", download=False), folder / "dicom" / "0.dcm")
    joblib.dump(OTCXRPretrainer(epochs=0).fit(pixels), folder / "encoder.joblib")
    monkeypatch.chdir(folder)
    return folder


def run(page, names):
    """Run the blocks of a page in order, and yield after each of them."""
    for block in python_blocks(page.read_text(encoding="utf-8"), runnable=True):
        exec(compile(block, page.name, "exec"), names)
        yield


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_python_blocks_of_a_page_run_in_order(page, reader, monkeypatch):
    small = otcxr_sk.LAPTOP | {"encoder": "test_resnet", "image_size": 32, "epochs": 1}
    monkeypatch.setattr(otcxr_sk, "LAPTOP", small, raising=False)
    before, names = set(reader.iterdir()), {}
    assert [*run(page, names)]
    new = {file.name for file in set(reader.iterdir()) - before}
    assert new == WRITTEN.get(page.name, new)


def test_few_python_blocks_are_not_run():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    blocks = [sum(len(python_blocks(text, runnable)) for text in texts) for runnable in (0, 1)]
    assert blocks[1] > 0.85 * blocks[0]


@pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")
def test_the_examples_of_passing_an_encoder_on_give_its_embedding(reader):
    names: dict[str, object] = {}
    embeddings = []
    for _ in run(ROOT / "docs" / "guide" / "weights.md", names):
        embeddings += [names["embedding"].numpy()] if "embedding" in names else []
    assert len(embeddings) == 2
    for embedding in embeddings:
        wanted = names["encoder"].set_params(precision="float32").transform(names["pixels"])
        np.testing.assert_allclose(embedding, wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")
def test_the_examples_of_what_comes_after_training_give_what_the_page_says(capsys):
    page = ROOT / "docs" / "guide" / "after-training.md"
    *blocks, _ = python_blocks(page.read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    steps = run(page, names)
    for _ in blocks:
        next(steps)
    of_training = np.isin(np.arange(len(names["y"])), names["train"])
    np.testing.assert_array_equal(names["seen"], of_training)
    printed = capsys.readouterr().out
    assert "told apart with an AUC of" in printed
    assert "sensitivity" in printed
    pytest.importorskip("faiss")
    next(steps)
    assert names["train"][names["position"][0]].tolist() == names["rows"][0].tolist()


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
