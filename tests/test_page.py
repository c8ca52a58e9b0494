"""The web page: its answers without a server, its server without a browser, and (slow) all of it in Chromium."""

import asyncio
import base64
import csv
import http.client
import io
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from busutils import models
from busutils.app import answers, page
from busutils.io import image as limits


class Bright(models.Segmenter):
    """Draws what is bright."""

    def __init__(self, size=64):
        self.size = size
        self.fitted_ = True

    def _square_proba(self, squares):
        return squares / 255.0


def scene(top=10, left=12, height=64, width=64):
    image = np.full((height, width), 20, np.uint8)
    image[top : top + 20, left : left + 30] = 240
    return image


def save(folder, name, image):
    Image.fromarray(image).save(folder / name)
    return folder / name


def links(text):
    """Downloads of an answer by name."""
    found = re.findall(r'download="([^"]+)" href="data:[\w/]+;base64,([^"]+)"', text)
    return {name: base64.b64decode(content) for name, content in found}


def one_answer(spacing=None, name="scan.png"):
    compared = {"U-Net": Bright(), "K-Means, best": models.KMeansSegmenter("best")}
    return answers.examine(compared, limits.Image(scene(), spacing=spacing), name)


# -- answers -------------------------------------------------------------------------------------------------


def test_the_mask_to_download_is_the_mask_itself():
    answer = one_answer()
    content = links(answers.answer_page(answer))["scan_u-net_mask.png"]
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "PNG"
    np.testing.assert_array_equal(np.asarray(picture) == 255, scene() > 100)


def test_measurements_are_in_millimetres_where_the_size_of_a_pixel_is_known():
    def table(spacing):
        content = links(answers.answer_page(one_answer(spacing)))["scan_measurements.csv"]
        return list(csv.DictReader(io.StringIO(content.decode())))

    network, clusters = table((0.1, 0.2))
    assert (network["method"], clusters["method"]) == ("U-Net", "K-Means, best")
    assert network["area_px"] == "600"
    assert float(network["area_mm2"]) == pytest.approx(600 * 0.1 * 0.2)
    assert float(network["longest_axis_mm"]) == pytest.approx(np.hypot(20 * 0.1, 30 * 0.2), abs=0.1)
    assert table(None)[0]["area_mm2"] == ""
    assert "mm²" in answers.answer_page(one_answer((0.1, 0.2)))
    assert "mm²" not in answers.answer_page(one_answer())


def test_a_method_without_probabilities_claims_none():
    row = one_answer().rows["K-Means, best"]
    assert row.confidence is None
    assert row.uncertainty is None


def test_an_empty_mask_is_no_all_clear():
    answer = answers.examine({"U-Net": Bright()}, limits.Image(np.zeros((64, 64), np.uint8)), "dark.png")
    assert "does not mean that nothing is there" in answers.answer_page(answer)


def test_a_screen_reader_is_told_what_the_pictures_show():
    text = answers.answer_page(one_answer())
    alts = re.findall(r'<img [^>]*alt="([^"]*)"', text)
    assert len(alts) == text.count("<img ")
    assert "scan with the marked lesion of U-Net" in alts
    assert text.count('<th scope="col">') == 2


@given(st.text(max_size=300))
def test_a_visitor_s_file_name_is_harmless(name):
    stem = answers.safe_stem(name)
    assert re.fullmatch(r"[A-Za-z0-9_][\w.-]{0,59}", stem, re.ASCII)
    assert Path(stem).name == stem


def test_a_file_name_cannot_write_the_page():
    name = "<img src=x onerror=alert(1)>.png"
    answer = one_answer(name=name)
    shown = answers.answer_page(answer) + answers.refusal_page(name)
    assert "<img src=x" not in shown
    assert "&lt;img src=x" in shown


def test_a_file_name_is_no_formula():
    for name in ("=1+1.png", "+cmd.png", "-2.png", "@sum.png", "\t=1.png"):
        table = links(answers.answer_page(one_answer(name=name)))
        (content,) = (text for file, text in table.items() if file.endswith(".csv"))
        for row in csv.DictReader(io.StringIO(content.decode())):
            assert not any(cell.startswith(tuple("=+-@\t\r")) for cell in row.values())


def test_refusals_are_clear_and_name_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PIXELS", 5000)
    (tmp_path / "letter.png").write_bytes(b"Dear Sir or Madam")
    save(tmp_path, "large.png", np.zeros((80, 80), np.uint8))
    save(tmp_path, "small.png", np.zeros((8, 80), np.uint8))
    for name, words in {
        "letter.png": "not a picture",
        "large.png": "more than the limit of 5,000",
        "small.png": "at least 32",
        "gone.png": "gone",
    }.items():
        with pytest.raises(answers.Refused, match=words) as refused:
            next(answers.read_upload(tmp_path / name))
        assert str(refused.value).startswith(name)
        assert str(tmp_path) not in str(refused.value)
        assert "busutils." not in str(refused.value)


def test_of_a_clip_the_first_frame_is_shown_and_said(tmp_path):
    first, second = (Image.fromarray(scene(left=left)) for left in (5, 25))
    first.save(tmp_path / "clip.tif", save_all=True, append_images=[second])
    frame = next(answers.read_upload(tmp_path / "clip.tif", spacing=(0.1, 0.1)))
    np.testing.assert_array_equal(frame.pixels, scene(left=5))
    assert frame.spacing == (0.1, 0.1)
    assert "this is the first" in answers.summary(answers.examine({"U-Net": Bright()}, frame, "clip.tif"))


def test_the_model_s_card_is_shown():
    for name in models.list_weights():
        assert page.model_card(name).startswith(f"# {name}")
    assert page.model_card("/export/busi-light.onnx") == page.model_card("busi-light")
    assert "without a card" in page.model_card("mine/own.npz")


# -- the guard and the sweep ---------------------------------------------------------------------------------


def ask(headers=(), chunks=(b"",), limit=1000):
    """What the guard lets through to an application that reads all it is sent, and what goes back."""
    applications = pytest.importorskip("starlette.applications", reason="the extra 'app' is not installed")
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    read, sent = [], []

    async def swallow(request):
        async for chunk in request.stream():
            read.append(chunk)
        return PlainTextResponse("ok")

    routes = [Route("/", swallow, methods=["POST"])]
    application = applications.Starlette(routes=routes, middleware=[Middleware(page.Guard, limit=limit)])

    waiting = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
    waiting[-1]["more_body"] = False

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": list(headers)}
    asyncio.run(application(scope, receive, send))
    return read, sent[0]["status"], dict(sent[0]["headers"])


def test_large_requests_are_refused_before_they_are_read():
    read, status, _ = ask([(b"content-length", b"1001")])
    assert (read, status) == ([], 413)
    read, status, _ = ask(chunks=[b"x" * 400] * 5)  # that does not say how long it is
    assert (len(read), status) == (2, 413)
    _, status, headers = ask([(b"content-length", b"1000")], chunks=[b"x" * 1000])
    assert status == 200
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert b"http" not in headers[b"content-security-policy"]


def test_the_sweep_deletes_what_is_old(tmp_path):
    (tmp_path / "upload").mkdir()
    for name in ("upload/scan.png", "unfinished", "thumbnail"):
        (tmp_path / name).write_bytes(b"x")
    kept = {str(tmp_path / "thumbnail")}
    page._sweep(tmp_path, kept, older_than=60)
    assert (tmp_path / "upload" / "scan.png").exists()
    page._sweep(tmp_path, kept, older_than=-1)
    assert [path.name for path in tmp_path.rglob("*")] == ["thumbnail"]


# -- the server ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address():
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    with page.serving(Bright(), name="bright") as url:
        yield url


def fetch(url, data=None, headers=()):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, dict(headers)), timeout=60) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(address, name, content):
    body = (
        f'--frontier\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n--frontier--\r\n"
    )
    return fetch(
        f"{address}gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=frontier"}.items()
    )


def segment(address, path, spacing=(0, 0)):
    payload = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, *spacing]}
    _, reply = fetch(
        f"{address}gradio_api/call/segment", json.dumps(payload).encode(), [("Content-Type", "application/json")]
    )
    status, events = fetch(f"{address}gradio_api/call/segment/{json.loads(reply)['event_id']}")
    assert status == 200
    return events.decode()


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_upload_is_answered(address):
    status, reply = upload(address, "scan.png", png(scene()))
    assert status == 200
    events = segment(address, json.loads(reply)[0])
    assert "event: complete" in events
    (text,) = json.loads(events.split("data: ", 1)[1])
    mask = np.asarray(Image.open(io.BytesIO(links(text)["scan_u-net_mask.png"])))
    np.testing.assert_array_equal(mask == 255, scene() > 100)


def test_no_result_lies_on_the_server_for_another_visitor(address):
    path = json.loads(upload(address, "private.png", png(scene(left=3)))[1])[0]
    before = {file for file in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if file.is_file()}
    assert "event: complete" in segment(address, path)
    after = {file for file in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if file.is_file()}
    # Gradio may leave a copy of the upload and empty files, but nothing that was made from it.
    assert {file.read_bytes() for file in after - before} <= {png(scene(left=3)), b""}


@pytest.mark.parametrize(
    ("spacing", "sides"), [((0.1, 0.2), (0.1, 0.2)), ((0.1, 0), (0.1, 0.1)), ((0, 0.2), (0.2, 0.2)), ((0, 0), None)]
)
def test_pixels_need_not_be_square(address, spacing, sides):
    path = json.loads(upload(address, "scan.png", png(scene()))[1])[0]
    (text,) = json.loads(segment(address, path, spacing).split("event: complete\ndata: ")[1].splitlines()[0])
    row = next(csv.DictReader(io.StringIO(links(text)["scan_measurements.csv"].decode())))
    if sides is None:
        assert row["longest_axis_mm"] == row["area_mm2"] == ""
    else:
        # From the middle of one outer edge to that of another, in a box of 20 by 30 pixels.
        ends = max(np.hypot(19 * sides[0], 30 * sides[1]), np.hypot(20 * sides[0], 29 * sides[1]))
        assert float(row["longest_axis_mm"]) == pytest.approx(ends, abs=0.001)
        assert float(row["area_mm2"]) == pytest.approx(600 * sides[0] * sides[1])


def test_a_used_port_is_one_sentence(address):
    port = urllib.parse.urlsplit(address).port
    with pytest.raises(page.PageError, match=rf"port {port} .*--port"), page.serving(Bright(), port=port):
        pass


def test_large_uploads_are_refused(address):
    status, _ = upload(address, "huge.png", b"x" * (page.MAX_FILE_MB * 2**20 + 1))
    assert status == 413
    # A body that is refused for what its header says need not be sent.
    server = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=60)
    server.putrequest("POST", "/gradio_api/queue/join")
    server.putheader("Content-Length", str(page.MAX_BODY_MB * 2**20 + 1))
    server.endheaders()
    assert server.getresponse().status == 413
    server.close()


def test_no_name_leads_out_of_the_upload_folder(address):
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    for name in ("../../evil.png", "/etc/evil.png", "..\\..\\evil.png", "....//evil.png", "%2e%2e%2fevil.png", "."):
        status, reply = upload(address, name, png(scene()))
        if status == 200:
            assert folder in Path(json.loads(reply)[0]).resolve().parents
    assert not list(folder.parent.glob("*evil*"))


def test_nothing_else_of_this_machine_is_served(address, tmp_path):
    secret = save(tmp_path, "secret.png", scene())
    for path in ("/etc/passwd", str(secret), f"{os.getcwd()}/pyproject.toml", "pyproject.toml", "../pyproject.toml"):
        status, _ = fetch(f"{address}gradio_api/file={path}")
        assert status in (403, 404)
        assert "event: error" in segment(address, path)


def test_the_server_fetches_nothing_for_a_visitor(address, monkeypatch):
    from gradio import processing_utils

    fetched = []

    async def download(url, **_):
        fetched.append(url)
        raise OSError

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", download)
    assert "event: error" in segment(address, "https://example.org/scan.png")
    assert fetched == []


def test_uploads_are_gone_when_the_server_is(tmp_path):
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    outside = os.environ.get("GRADIO_TEMP_DIR"), limits.MAX_PIXELS
    with page.serving(Bright(), name="bright", keep_seconds=0.2) as url:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        path = Path(json.loads(upload(url, "scan.png", png(scene()))[1])[0])
        assert folder in path.parents
        assert outside[1] == limits.MAX_PIXELS  # the page limits its own reading, nobody else's
        for _ in range(100):
            if not path.exists():
                break
            time.sleep(0.1)
        assert not path.exists()
        assert "gone" in segment(url, str(path)) or "error" in segment(url, str(path))
    assert not folder.exists()
    assert (os.environ.get("GRADIO_TEMP_DIR"), limits.MAX_PIXELS) == outside


# -- the browser ---------------------------------------------------------------------------------------------


@pytest.fixture
def visitor(address, browser):
    """Opens the page; when the test is over, no request has gone anywhere else."""
    asked, opened = [], []

    def visit(width=1280, height=900, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.on("request", lambda request: asked.append(request.url))
        context.set_default_timeout(120_000)  # on a busy machine half a minute may be too short
        opened.append(context)
        tab = context.new_page()
        tab.goto(address)
        tab.wait_for_selector("#answer[aria-live] section")  # set last: from now on keys and clicks are heard
        return tab

    yield visit
    for context in opened:
        context.close()
    assert asked
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_upload_result_download(visitor, tmp_path, width, scheme):
    tab = visitor(width, 844, scheme)
    tab.set_input_files("#file input[type=file]", save(tmp_path, "scan.png", scene()))
    tab.wait_for_selector("#answer .figures")
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Mask, U-Net").click()
    assert download.value.suggested_filename == "scan_u-net_mask.png"
    np.testing.assert_array_equal(np.asarray(Image.open(download.value.path())) == 255, scene() > 100)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "Not a medical device" in tab.inner_text("#warning")


@pytest.mark.slow
def test_a_dicom_file_is_measured_in_its_own_millimetres(visitor, tmp_path):
    pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
    import spoiled

    (tmp_path / "scan.dcm").write_bytes(spoiled.dicom(scene(), PixelSpacing=[0.1, 0.2]))
    tab = visitor()
    tab.set_input_files("#file input[type=file]", tmp_path / "scan.dcm")
    tab.wait_for_selector("#answer .figures")
    assert "600 pixels, 12 mm²" in tab.inner_text("#answer")
    assert spoiled.PATIENT not in tab.content()
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Mask, U-Net").click()
    np.testing.assert_array_equal(np.asarray(Image.open(download.value.path())) == 255, scene() > 100)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["upload", "sample"])
def test_the_answer_is_seen_at_once_on_a_phone(visitor, tmp_path, way):
    tab = visitor(390, 844)
    if way == "upload":
        tab.set_input_files("#file input[type=file]", save(tmp_path, "scan.png", scene()))
    else:
        tab.get_by_role("button", name="Thumbnail 1 of 6").click()
    tab.wait_for_selector("#answer .figures")
    tab.wait_for_timeout(500)  # until nothing moves any more
    for part in ("#answer h2", "#answer .summary"):
        box = tab.locator(part).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 844, part
    picture = tab.locator("#answer .stack").first.bounding_box()
    assert 0 <= picture["y"] <= 844 - picture["height"] / 2


@pytest.mark.slow
def test_opacity_changes_without_the_server(visitor, tmp_path):
    tab = visitor()
    tab.set_input_files("#file input[type=file]", save(tmp_path, "scan.png", scene()))
    tab.wait_for_selector("#answer .figures")
    tab.fill("#opacity input[type=number]", "1")
    tab.press("#opacity input[type=number]", "Tab")
    tab.wait_for_function("getComputedStyle(document.querySelector('#answer .mask')).opacity == '1'")


@pytest.mark.slow
def test_wrong_files_are_refused_in_words(visitor, tmp_path):
    tab = visitor()
    (tmp_path / "letter.png").write_bytes(b"Dear Sir or Madam")
    tab.set_input_files("#file input[type=file]", tmp_path / "letter.png")
    tab.get_by_role("alert").filter(has_text="letter.png is not a picture").wait_for()
    tab.reload()
    tab.wait_for_selector("#answer section")
    (tmp_path / "huge.png").write_bytes(b"x" * 50_000_000)
    tab.set_input_files("#file input[type=file]", tmp_path / "huge.png")
    tab.get_by_text("exceed the maximum allowed size").first.wait_for()
    tab.reload()
    tab.wait_for_selector("#answer section")
    (tmp_path / "notes.txt").write_text("no picture")
    tab.set_input_files("#file input[type=file]", tmp_path / "notes.txt")
    tab.get_by_text("Invalid file type").first.wait_for()


@pytest.mark.slow
def test_the_keyboard_is_enough(visitor, tmp_path):
    tab = visitor()

    def tab_to(words):
        for _ in range(60):
            tab.keyboard.press("Tab")
            focused = tab.evaluate("(document.activeElement.ariaLabel || '') + ' ' + document.activeElement.innerText")
            if words in focused:
                return
        raise AssertionError(f"no key leads to {words!r}")

    tab_to("upload")
    with tab.expect_file_chooser() as chooser:
        tab.keyboard.press("Enter")
    chooser.value.set_files(save(tmp_path, "scan.png", scene()))
    tab.wait_for_selector("#answer .figures")
    tab_to("Thumbnail 3 of 6")
    tab.keyboard.press("Enter")
    tab.get_by_role("heading", name="sample_3").wait_for()
    tab_to("Measurements (CSV)")
    with tab.expect_download() as download:
        tab.keyboard.press("Enter")
    assert download.value.suggested_filename == "sample_3_measurements.csv"


@pytest.mark.slow
def test_everything_has_a_name(visitor, tmp_path):
    tab = visitor()
    tab.set_input_files("#file input[type=file]", save(tmp_path, "scan.png", scene()))
    tab.wait_for_selector("#answer .figures")
    nameless = tab.evaluate(
        """() => [
          ...[...document.querySelectorAll('img')].filter(e => !e.hasAttribute('alt')),
          ...[...document.querySelectorAll('button, a[href]')].filter(
            e => e.checkVisibility() && !(e.innerText.trim() || e.ariaLabel || e.title)),
          ...[...document.querySelectorAll('input:not([type=file])')].filter(
            e => e.checkVisibility() && !(e.labels.length || e.ariaLabel)),
        ].map(e => e.outerHTML.slice(0, 200))"""
    )
    assert nameless == []
    assert tab.evaluate("document.documentElement.lang")
    assert tab.get_attribute("#answer", "aria-live") == "polite"
    assert tab.evaluate("document.querySelectorAll('h1').length") == 1
