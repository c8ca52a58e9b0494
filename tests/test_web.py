"""The page that segments in the visitor's browser (slow, in Chromium): the masks of Python, and nothing sent anywhere."""

import base64
import functools
import http.server
import threading

import numpy as np
import pytest
from PIL import Image

from busutils import datasets, models
from busutils import io as bio
from busutils.io import resize_image, resize_map
from busutils.metrics import dice
from busutils.models.kmeans import kmeans_1d
from busutils.models.segmenter import Segmenter, clean_mask
from busutils.predict import describe

pytestmark = pytest.mark.slow
DONE = "segmented on this device"
KINDS = {"uint8": "Uint8Array", "float32": "Float32Array"}


class Server:
    """Serves a folder and remembers what it was asked."""

    def __init__(self, folder):
        self.asked = asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_request(self, *args):
                asked.append((self.command, self.path))

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.address = f"http://127.0.0.1:{self.http.server_port}/web/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def visitor(web, browser):
    """Opens the page and waits for the first answer; when the test is over, no request has gone anywhere else."""
    server, asked, opened = Server(web.parent), [], []

    def visit(width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 780}, color_scheme=scheme)
        context.on("request", lambda request: asked.append((request.method, request.url)))
        context.set_default_timeout(120_000)
        opened.append(context)
        tab = context.new_page()
        tab.goto(server.address)
        tab.get_by_text(DONE).wait_for()
        tab.server = server
        return tab

    yield visit
    for context in opened:
        context.close()
    server.stop()
    assert asked
    assert [url for _, url in asked if not url.startswith((server.address, "blob:"))] == []
    assert {method for method, _ in asked + server.asked} == {"GET"}


CALL = """async ([body, values]) => {
    const unpack = (v) => v?.type ? new globalThis[v.type](Uint8Array.from(atob(v.data), (c) => c.charCodeAt(0)).buffer) : v;
    const pack = (v) => ArrayBuffer.isView(v)
        ? { type: v.constructor.name, data: btoa(Array.from(new Uint8Array(v.buffer), (b) => String.fromCharCode(b)).join('')) }
        : v;
    const call = new (async () => {}).constructor('s', 'ort', 'values', body);
    const modules = [await import('/web/segment.js'), await import('/web/runtime/ort.wasm.min.mjs')];
    return pack(await call(...modules, values.map(unpack)));
}"""


@pytest.fixture(scope="module")
def script(web, browser):
    """Runs JavaScript with ``s``, the page's module segment.js, and ``ort``; arrays travel as bytes."""
    server = Server(web.parent)
    tab = browser.new_context(bypass_csp=True).new_page()
    tab.goto(server.address + "icon.svg")

    def run(body, *values):
        sent = [
            {"type": KINDS[v.dtype.name], "data": base64.b64encode(v.tobytes()).decode()}
            if isinstance(v, np.ndarray)
            else v
            for v in values
        ]
        got = tab.evaluate(CALL, [body, sent])
        names = {kind: name for name, kind in KINDS.items()}
        packed = isinstance(got, dict) and "data" in got
        return np.frombuffer(base64.b64decode(got["data"]), names[got["type"]]) if packed else got

    yield run
    server.stop()


def picture(folder, name, pixels):
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def scans(n, seed=5):
    """Phantoms of odd sizes, tall, wide, smaller and larger than what a network sees."""
    rng = np.random.default_rng(seed)
    records = datasets.load("phantom", n=n, seed=seed, scanner="mixed")
    return [resize_image(r.image.read(), tuple(int(v) for v in 2 * rng.integers(45, 320, 2) + 1)) for r in records]


def upload(tab, path):
    tab.set_input_files("#file", path)
    tab.locator("#status").get_by_text(f"{path.name},").or_(tab.locator("#error").get_by_text(path.name)).wait_for()


def area(tab):
    return int(tab.locator("#rows td").first.inner_text().replace(",", ""))


# -- the same masks as Python -------------------------------------------------------------------------------------


def test_masks_are_those_of_python(web, script):
    segmenter, agreements, empty = models.load(web / "network.onnx"), [], 0
    answer = """
        ort.env.wasm.numThreads = 1;
        const about = await (await fetch('network.json')).json();
        const session = globalThis.session ??= await ort.InferenceSession.create('network.onnx');
        const [pixels, height, width] = values;
        const map = await s.probability({ pixels, height, width }, about, async (square) => {
            const input = new ort.Tensor('float32', square, [1, about.size, about.size, 1]);
            return Object.values(await session.run({ [session.inputNames[0]]: input }))[0].data;
        });
        return s.maskOf(map, height, width, about.threshold, about.min_area);
    """
    for image in scans(30):
        mask, expected = script(answer, image, *image.shape).reshape(image.shape), segmenter.predict([image])[0]
        empty += not expected.any()
        agreements.append(dice(mask.astype(bool), expected, empty=1.0))
    assert empty < 15, "empty masks show little"
    assert min(agreements) >= 0.995, sorted(agreements)[:5]


class Bright(Segmenter):
    """What is bright, more so on the left: its mirror image has another answer."""

    def __init__(self, size=64, tta="none", min_area=0.0):
        self.size, self.tta, self.min_area = size, tta, min_area
        self.fitted_ = True

    def _square_proba(self, squares):
        from busutils.models.tta import mean_over_tta

        return mean_over_tta(
            lambda s: s / np.float32(255) * np.linspace(1, 0.5, self.size, dtype="f4"), squares, self.tta
        )


@pytest.mark.parametrize("tta", ["none", "mirror"])
def test_maps_are_those_of_python(script, tta):
    for image in scans(6, seed=8):
        (expected,) = Bright(tta=tta).predict_proba([image])
        found = script(
            """const [pixels, height, width, tta] = values;
            const net = async (v) => v.map((level, i) => level / 255 * (1 - 0.5 * (i % 64) / 63));
            return s.probability({ pixels, height, width }, { size: 64, tta }, net);""",
            image, *image.shape, tta,
        )  # fmt: skip
        np.testing.assert_allclose(found.reshape(image.shape), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5), (64, 64), (97, 31), (200, 333)])
def test_squares_round_as_in_python(script, shape):
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    call = "const [pixels, height, width] = values; return s.square({ pixels, height, width }, 32);"
    square = script(call, image, *shape).reshape(32, 32)
    different = square != resize_image(image, 32)
    assert different.mean() < 0.01  # where a sum ends in .5 but for the last digit
    assert np.abs(square - resize_map(image, 32)).max() <= 0.501


def test_holes_and_small_regions_are_treated_as_in_python(script):
    rng = np.random.default_rng(2)
    call = "const [map, height, width, minArea] = values; return s.maskOf(map, height, width, 0.5, minArea);"
    for shape in ((41, 63), (64, 30)):
        noise = resize_map(rng.random((shape[0] // 4, shape[1] // 4)), shape) + 0.15 * rng.random(shape)
        for min_area in (0.0, 0.005, 0.03):
            expected = clean_mask(noise.astype(np.float32) >= 0.5, min_area=min_area)
            found = np.reshape(script(call, noise.astype(np.float32), *shape, min_area), shape)
            np.testing.assert_array_equal(found.astype(bool), expected)
    assert not np.any(script(call, np.zeros(12, np.float32), 3, 4, 0.1))


def test_measurements_are_those_of_python(script):
    rows, columns = np.mgrid[:60, :90]
    tilted = np.abs(rows - 30 + 0.4 * (columns - 40)) + np.abs(columns - 40) / 3 < 9
    for mask in (
        tilted,
        tilted | (np.hypot(rows - 8, columns - 80) < 4),
        np.eye(60, 90, 3, bool),
        np.zeros((60, 90), bool),
    ):
        expected = describe(
            "a.png", "", bio.Image(np.zeros(mask.shape, np.uint8), (0.1, 0.2)), mask.astype("f4"), mask, 0.5
        )
        call = "const [mask, height, width] = values; return s.measure(mask, height, width, [0.1, 0.2]);"
        row = script(call, mask.astype(np.uint8), *mask.shape)
        assert row["area"] == expected.area_px
        assert row["areaMm2"] == pytest.approx(expected.area_mm2, abs=0.001)
        assert row["axis"] == pytest.approx(expected.longest_axis_px or 0, abs=0.01)
        assert row["axisMm"] == pytest.approx(expected.longest_axis_mm or 0, abs=0.001)


@pytest.mark.parametrize("k", range(2, 9))
def test_clusters_are_those_of_python(script, k):
    images = [*scans(2, seed=3), np.array([[3, 3, 9], [9, 200, 255]], np.uint8)]
    for image in images:
        call = "const { cluster, centres } = s.kMeans(...values); return [[...cluster], centres];"
        cluster, centres = script(call, image, k)
        expected = kmeans_1d(image, k)
        np.testing.assert_allclose(centres, expected.centres)
        np.testing.assert_array_equal(np.array(cluster)[image], np.searchsorted(expected.thresholds, image))


# -- what a visitor sees ------------------------------------------------------------------------------------------


def test_a_sample_is_shown_at_once_and_another_on_click(visitor):
    tab = visitor()
    assert "Not a medical device" in tab.locator("header").inner_text()
    before = tab.locator("#unet").screenshot()
    tab.get_by_role("button", name="Simulated image 3").click()
    tab.locator("#status").get_by_text("Simulated image 3,").wait_for()
    assert tab.locator("#unet").screenshot() != before
    assert "mm across" in tab.inner_text("#summary")
    assert tab.locator("#samples [aria-pressed=true]").inner_text().startswith("3")


def test_an_upload_is_measured_as_by_python_and_asks_for_nothing(visitor, web, tmp_path):
    tab = visitor()
    tab.evaluate("navigator.serviceWorker.ready.then(() => null)")
    before = len(tab.server.asked)
    segmenter = models.load(web / "network.onnx")
    for number, image in enumerate(scans(3)):
        upload(tab, picture(tmp_path, f"scan{number}.png", image))
        assert area(tab) == pytest.approx(segmenter.predict([image])[0].sum(), rel=0.005, abs=5)
        assert "mm" not in tab.inner_text("#rows")
    tab.get_by_label("Size of a pixel in mm").fill("0.1")
    tab.locator("#rows").get_by_text("Area (mm²)").wait_for()
    assert len(tab.server.asked) == before, "an upload leaves the device alone"


def test_a_picture_can_be_dropped(visitor):
    tab = visitor()
    tab.evaluate(
        """async () => {
            const data = new DataTransfer();
            data.items.add(new File([await (await fetch('samples/2.png')).blob()], 'dropped.png'));
            document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true }));
        }"""
    )
    tab.locator("#status").get_by_text("dropped.png,").wait_for()


def test_sliders_change_masks_and_words(visitor):
    tab = visitor()
    areas = []
    for threshold in ("0.02", "0.5", "0.98"):
        tab.locator("#threshold").fill(threshold)
        tab.locator("output[for=threshold]").get_by_text(f"{float(threshold):.2f}").wait_for()
        areas.append(area(tab))
    assert areas[0] > areas[1] > areas[2]
    share = tab.locator("#rows tr").first.inner_text()
    tab.locator("#k").fill("6")
    tab.locator("output[for=k]").get_by_text("6").wait_for()
    assert tab.locator("#rows tr").first.inner_text() != share
    assert "6 grey levels" in tab.get_attribute("#clusters", "aria-label")


def test_unusual_pictures_are_read_as_by_python(visitor, web, tmp_path):
    grey = scans(1, seed=9)[0]
    colour = np.stack([grey, grey // 2 + 40, 255 - grey], -1).astype(np.uint8)
    half = np.full_like(grey, 128)
    made = {
        "colour.png": Image.fromarray(colour),
        "rgba.png": Image.fromarray(np.dstack([colour, half])),
        "grey and alpha.png": Image.merge("LA", [Image.fromarray(grey), Image.fromarray(half)]),
        "16 bit.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "palette.gif": Image.fromarray(grey),
        "scan.webp": Image.fromarray(grey),
        "scan.jpg": Image.fromarray(grey),
    }
    segmenter, tab = models.load(web / "network.onnx"), visitor()
    for name, image in made.items():
        image.save(tmp_path / name)
        upload(tab, tmp_path / name)
        expected = segmenter.predict([bio.read_image(tmp_path / name)])[0].sum()
        assert area(tab) == pytest.approx(expected, rel=0.01, abs=10), name


def test_what_cannot_be_used_is_refused_in_one_sentence(visitor, tmp_path):
    tab = visitor()
    unreadable, dark = "not a picture that this browser can read", np.full((100, 100), 7, np.uint16)
    for name, content, words in [
        ("letter.png", b"Dear Sir or Madam", unreadable),
        ("notes.txt", b"no picture", unreadable),
        ("empty.png", b"", unreadable),
        ("<img src=x>.png", b"GIF89a", unreadable),
        ("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>', unreadable),
        ("small.png", np.zeros((8, 80), np.uint8), "each side needs at least 32"),
        ("huge.png", np.zeros((9000, 9000), np.uint8), "more than the limit of 4,000,000"),
        ("flat.png", np.full((100, 100), 7, np.uint8), "one flat grey"),
        ("low.png", dark + np.eye(100, dtype=np.uint16), "one flat grey"),
    ]:
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            picture(tmp_path, name, content)
        tab.set_input_files("#file", tmp_path / name)
        tab.get_by_role("alert").get_by_text(name).wait_for()
        said = tab.get_by_role("alert").inner_text()
        assert words in said and said.startswith(name)
        assert said.count(". ") == 0 and said.endswith(".")
    tab.get_by_role("button", name="Simulated image 2").click()  # the page goes on
    tab.locator("#status").get_by_text("Simulated image 2,").wait_for()
    assert tab.locator("#error").is_hidden()


def test_it_works_without_a_network_after_the_first_visit(visitor, tmp_path):
    tab = visitor()
    tab.evaluate("navigator.serviceWorker.ready.then(() => null)")
    tab.server.stop()
    tab.goto(tab.server.address + "index.html")
    tab.get_by_text(DONE).wait_for()
    tab.get_by_role("button", name="Simulated image 5").click()
    tab.locator("#status").get_by_text("Simulated image 5,").wait_for()
    upload(tab, picture(tmp_path, "scan.png", scans(1)[0]))
    assert tab.locator("#error").is_hidden()


def test_the_keyboard_is_enough(visitor, tmp_path):
    tab = visitor()
    tab.on("filechooser", lambda _: None)  # the browser hands choosers over from now on, not only when one is awaited

    def tab_to(selector):
        for _ in range(30):
            tab.keyboard.press("Tab")
            if tab.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"no key leads to {selector}")

    tab_to("#file")
    assert tab.evaluate("getComputedStyle(document.querySelector('#drop')).outlineStyle") == "solid"
    with tab.expect_file_chooser() as chooser:
        tab.keyboard.press("Enter")
    chooser.value.set_files(picture(tmp_path, "scan.png", scans(1)[0]))
    tab.locator("#status").get_by_text("scan.png,").wait_for()
    tab_to("#samples li:nth-child(4) button")
    tab.keyboard.press("Enter")
    tab.locator("#status").get_by_text("Simulated image 4,").wait_for()
    tab_to("#threshold")
    before = float(tab.input_value("#threshold"))
    tab.keyboard.press("ArrowRight")
    assert float(tab.input_value("#threshold")) > before
    tab_to("#k")
    tab.keyboard.press("ArrowRight")
    tab.locator("output[for=k]").get_by_text("3").wait_for()


def test_a_phone_shows_the_answer_within_its_width(visitor):
    tab = visitor(360)
    tab.get_by_role("button", name="Simulated image 2").click()
    tab.locator("#status").get_by_text("Simulated image 2,").wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    box = tab.locator("#summary").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= 780
    small = tab.evaluate(
        "[...document.querySelectorAll('button, input[type=range]')].filter(e => e.getBoundingClientRect().height < 24).length"
    )
    assert small == 0, "a finger needs room"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_light_and_dark(visitor, scheme):
    tab = visitor(scheme=scheme)
    contrasts = tab.evaluate(
        """['p', '#status', 'a', 'footer', '.warning'].map((selector) => {
            const element = document.querySelector(selector);
            let ground = element;
            while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
            const light = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255)
                .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const [a, b] = [light(getComputedStyle(element).color), light(getComputedStyle(ground).backgroundColor)];
            return { selector, darkInk: a < b, ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) };
        })"""
    )
    for contrast in contrasts:
        assert contrast["darkInk"] == (scheme == "light")
        assert contrast["ratio"] >= 4.5, contrast


def test_everything_has_a_name(visitor):
    tab = visitor()
    nameless = tab.evaluate(
        """[
            ...[...document.querySelectorAll('img')].filter((e) => !e.hasAttribute('alt')),
            ...[...document.querySelectorAll('button, a[href]')].filter((e) => !(e.ariaLabel || e.innerText.trim())),
            ...[...document.querySelectorAll('input')].filter((e) => !e.labels.length),
            ...[...document.querySelectorAll('canvas')].filter((e) => !e.ariaLabel),
        ].map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert nameless == []
    assert tab.evaluate("document.querySelectorAll('h1').length") == 1


def test_half_the_digits_draw_the_same_masks(web):
    half, whole = models.load(web / "network.onnx"), models.load("busi-light", runtime="keras")
    images = scans(5)
    for a, b in zip(half.predict(images), whole.predict(images), strict=True):
        assert dice(a, b, empty=1.0) > 0.98


def test_the_download_is_small_and_the_worker_keeps_all_of_it(web):
    assert (web / "network.onnx").stat().st_size <= 4 * 2**20
    worker = (web / "worker.js").read_text(encoding="utf-8")
    for path in web.rglob("*"):
        if path.is_file() and path.name != "worker.js":
            assert f'"{path.relative_to(web).as_posix()}"' in worker
