"""The site in Chromium (slow): nothing asked of another host, no dead end, readable on a phone, light and dark."""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
WIDTH = 390  # pixels of a phone

OVERFLOW = "document.documentElement.scrollWidth"
BROKEN = "[...document.images].filter(i => i.loading != 'lazy' && !(i.complete && i.naturalWidth)).map(i => i.src)"
LINKS = "[...document.querySelectorAll('a[href]')].map(a => a.href)"
PICTURE, ALT = re.compile(r"<img [^>]*_images/[^>]*>"), re.compile(r'alt="([^"]*)"')
ANCHOR = "id => !!document.getElementById(id)"
# Luminance of text and ground where the lesson's words are, each 0 to 255.
CONTRAST = """[getComputedStyle(document.querySelector('article p')).color, getComputedStyle(document.body).backgroundColor]
    .map(c => c.match(/[0-9.]+/g).slice(0, 3).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0))"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory, web):
    for module in ("sphinx", "myst_nb", "sphinx_book_theme"):
        pytest.importorskip(module, reason="the extra 'site' is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-c", "docs", "-b", "html", "-d", folder / "cache", "-W", "--keep-going"]
    made = subprocess.run([*command, "-q", ".", folder / "html"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    shutil.copytree(web, folder / "html" / "web")
    return folder / "html"


@pytest.fixture(scope="module")
def address(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def pages_of(site):
    """Addresses of all pages but the copies of the source code, which are alike: one of those is enough."""
    names = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]
    return [name for name in names if not name.startswith("_modules/") or name.endswith("/metrics.html")]


def test_every_page_stays_here_leads_somewhere_and_fits_a_phone(site, address, browser):
    tab = browser.new_page(viewport={"width": WIDTH, "height": 844})
    foreign, faults, anchors = [], [], {}
    tab.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else foreign.append(r.url))
    tab.on("response", lambda r: faults.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    names = pages_of(site)
    assert len(names) > 20
    for name in names:
        tab.goto(address + name)
        if (width := tab.evaluate(OVERFLOW)) > WIDTH:
            faults.append(f"{name} is {width} pixels wide on a phone of {WIDTH}")
        # The page in the browser adds its pictures by script, after the page was loaded.
        tab.wait_for_function("[...document.images].every((picture) => picture.complete)")
        faults += [f"{name}: the picture {source} does not load" for source in tab.evaluate(BROKEN)]
        for link in tab.evaluate(LINKS):
            target = urlsplit(link)
            if not link.startswith(address):
                continue
            path = unquote(target.path).lstrip("/") or "index.html"
            if not (site / path).exists():
                faults.append(f"{name}: the link to {path} leads nowhere")
            elif target.fragment and path.endswith(".html") and "_modules" not in path:
                anchors.setdefault(path, {}).setdefault(unquote(target.fragment), name)
    for path, fragments in anchors.items():
        tab.goto(address + path)
        faults += [f"{name}: {path} has no #{f}" for f, name in fragments.items() if not tab.evaluate(ANCHOR, f)]
    assert not foreign
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["notebooks/02_segment_with_kmeans.html", "docs/reference/models.html"])
def test_words_stand_out_in_light_and_dark(address, browser, name, scheme):
    tab = browser.new_context(color_scheme=scheme).new_page()
    tab.goto(address + name)
    ink, ground = tab.evaluate(CONTRAST)
    assert (ink < ground) == (scheme == "light")
    assert abs(ink - ground) > 128


def test_the_front_page_has_every_lesson_in_its_menu(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        assert f'href="notebooks/{path.stem}.html"' in text
    for page in (text, (site / "notebooks" / "02_segment_with_kmeans.html").read_text(encoding="utf-8")):
        assert re.search(r'href="(\.\./)?web/index\.html"', page), "the page that segments is in every menu"


def test_every_picture_of_a_lesson_says_what_it_shows(site):
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        pictures = PICTURE.findall((site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8"))
        assert len(pictures) > 1
        for picture in pictures:
            (words,) = ALT.findall(picture)
            assert len(words) >= 15, picture
            assert "_images/" not in words, "Sphinx writes the file's name where there is no text"


def test_a_lesson_can_be_downloaded_and_its_answers_are_folded(site):
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page = (site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert re.search(rf"_downloads/\w+/{path.name}", page)
        assert page.count("<summary>Answer to Q") in (2, 3)
        assert '<details class="admonition hide' in page, "outputs after a question are folded"
