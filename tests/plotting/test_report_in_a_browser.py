"""The page in a real browser."""

import html
import os
import re
import shutil
import subprocess

import pytest

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.plotting import report

BROWSER = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs the browser chromium"),
]

# Windows of a browser are at least 500 pixels wide, frames can be as narrow as a phone. The frame
# is of the same origin, so that this page may measure it.
FRAME = """<!DOCTYPE html><iframe style="width: {width}px; height: 900px; border: 0"
srcdoc="{page}"></iframe><pre id="found"></pre><script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {{
  const page = frame.contentDocument, root = page.documentElement;
  const images = [...page.images];
  document.querySelector("#found").textContent = [
    root.scrollWidth, root.clientWidth, images.length,
    images.filter(one => one.naturalWidth > 0).length,
    getComputedStyle(page.body).backgroundColor,
  ].join(";");
}});
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    data = make_chest_phantoms(40, image_size=32, random_state=0)
    encoder = OTCXRPretrainer("resnet10t", image_size=32, epochs=1, random_state=0)
    encoder.fit(data.images, groups=data.groups)
    names = ["a_label_with_a_name_so_long_that_no_phone_can_show_it" * 3, *data.label_names[1:]]
    title = "Averylongtitlewithoutspaces" * 5
    options = {"groups": data.groups, "label_names": names, "title": title, "random_state": 0}
    report(encoder, data.images, data.labels, path=path, **options)
    return path.read_text(encoding="utf-8")


def measured(page, folder, width, *options):
    """Return width of the content and of the frame, images, those that are shown, and the color."""
    file = folder / "frame.html"
    file.write_text(FRAME.format(width=width, page=html.escape(page)), encoding="utf-8")
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [
            *(BROWSER, "--headless", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"),
            *("--window-size=1500,1000", "--virtual-time-budget=20000", "--dump-dom"),
            *(*as_root, *options, file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)[1].split(";")
    return [int(number) for number in found[:4]], found[4]


@pytest.mark.parametrize("width", [360, 390, 768, 1366, 1600])
def test_nothing_is_wider_than_the_window_and_every_picture_is_shown(page, tmp_path, width):
    (content, frame, images, shown), _ = measured(page, tmp_path, width)
    assert content == frame
    assert width - 20 <= frame <= width
    assert images == shown > 8


def test_a_dark_screen_has_a_dark_page(page, tmp_path):
    light = measured(page, tmp_path, 1366)[1]
    dark = measured(page, tmp_path, 1366, "--blink-settings=preferredColorScheme=0")[1]
    assert sum(map(int, re.findall(r"\d+", dark))) < 150 < sum(map(int, re.findall(r"\d+", light)))
