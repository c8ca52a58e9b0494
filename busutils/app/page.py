"""The web page: upload or sample, mask, maps, measurements, download. Not a medical device."""

import contextlib
import ctypes
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image

from busutils import datasets, jobs, models
from busutils.app import answers
from busutils.errors import BusutilsError, MissingPackageError
from busutils.io import DICOM_SUFFIXES, PICTURE_SUFFIXES, Image, read_image
from busutils.models.segmenter import Segmenter

__all__ = ["PageError", "build", "methods", "model_card", "serving"]

MAX_FILE_MB = 10
MAX_PIXELS = 8_000_000  # checked before anything is decoded; several times what scanners write
MAX_BODY_MB = 12  # of any request
MAX_WAITING = 40  # visitors in the queue; more are asked to come back
KEEP_SECONDS = 300  # age at which an upload is deleted: long enough for the queue
_MB = 2**20  # as browsers count

WARNING = (
    "Not a medical device. For teaching and research only: what is marked may be wrong, and lesions may be missed. "
    "Nothing here may be used to decide about a person."
)
PRIVACY = (
    f"PNG, JPEG, BMP, TIFF, GIF or DICOM, up to {MAX_FILE_MB} MB and {MAX_PIXELS // 1_000_000} million pixels. Upload no "
    "picture that shows a name. Images are segmented on the machine that serves this page, are deleted within "
    f"{KEEP_SECONDS // 60} minutes, and go nowhere else."
)

# On a narrow screen the answer stands below everything else.
_SCROLL_ON_A_PHONE = "() => { if (innerWidth <= 700) document.getElementById('answer').scrollIntoView(); }"

# The page names no other host, and these headers make the visitor's browser refuse any.
_HEADERS = {
    "content-security-policy": (
        "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class PageError(BusutilsError):
    """A page that cannot be served as asked, and why."""


def methods(segmenter: Segmenter) -> dict[str, Segmenter]:
    """What the page compares: the given segmenter first, K-Means beside it.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one.

    Returns
    -------
    dict of Segmenter
        By name.
    """
    if isinstance(segmenter, models.KMeansSegmenter):
        return {f"K-Means, {segmenter.preset}": segmenter}
    return {"U-Net": segmenter, "K-Means, best": models.KMeansSegmenter("best")}


def model_card(name: str) -> str:
    """The card of shipped weights, in Markdown, or a sentence where there is none.

    Parameters
    ----------
    name : str
        Name or file of the weights.

    Returns
    -------
    str
    """
    path = Path(name)
    shipped = path.stem if path.suffix == ".onnx" else name  # exports are called after their weights
    if shipped in models.list_weights():
        return (Path(models.__file__).parent / "weights" / f"{shipped}.md").read_text(encoding="utf-8")
    return f"# {path.name}\n\nThese weights came without a card: ask whoever trained them for what, and on what."


# -- the page ------------------------------------------------------------------------------------------------


def build(segmenter: Segmenter, *, name: str = "U-Net") -> Any:
    """Make the page.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one.
    name : str
        Of its weights; their card is shown.

    Returns
    -------
    gradio.Blocks
        :func:`serving` puts it on a port.

    Raises
    ------
    ImportError
        If Gradio is missing.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as gr
    except ImportError as error:
        raise MissingPackageError('the page needs Gradio: pip install "busutils[app]"') from error

    compared = methods(segmenter)
    records = list(datasets.load("phantom", n=6, seed=2026))
    samples = [Image(read_image(r.image), r.spacing) for r in records]
    captions = [f"{i}: {r.label}" for i, r in enumerate(records, start=1)]

    def show(file: str | None, dy: float | None = None, dx: float | None = None) -> str:
        if not file:
            return answers.refusal_page("Choose an image first, or a sample.")
        spacing = (dy or dx or 0.0, dx or dy or 0.0) if dy or dx else None
        try:
            image = next(answers.read_upload(file, spacing, max_pixels=MAX_PIXELS))
        except answers.Refused as refused:
            return answers.refusal_page(f"This file cannot be used: {refused}")
        return answers.answer_page(answers.examine(compared, image, Path(file).name))

    def show_sample(event: gr.SelectData) -> str:
        return answers.answer_page(answers.examine(compared, samples[event.index], f"sample_{event.index + 1}.png"))

    number = {"value": 0, "minimum": 0, "maximum": 10, "step": 0.001, "min_width": 120}
    with gr.Blocks(title="busutils: lesions in breast ultrasound", analytics_enabled=False) as page:
        gr.Markdown(f"# Lesions in breast-ultrasound images\nOutlined by {' and '.join(compared)}.")
        gr.HTML(f'<p role="note">{WARNING}</p>', elem_id="warning")
        with gr.Tab("Segment", id="one"), gr.Row():
            with gr.Column(scale=2, min_width=280):
                suffixes = [*PICTURE_SUFFIXES, *DICOM_SUFFIXES]
                file = gr.File(label="Your image", height=140, elem_id="file", file_types=suffixes, type="filepath")
                with gr.Row():
                    dy = gr.Number(label="Height of a pixel in mm", elem_id="dy", **number)
                    dx = gr.Number(label="Width of a pixel in mm", elem_id="dx", **number)
                gr.Markdown("For measurements in millimetres; 0 if unknown. DICOM files often state it.")
                button = gr.Button("Segment", variant="primary", elem_id="segment")
                gallery = gr.Gallery(
                    [(PIL.Image.fromarray(s.pixels), caption) for s, caption in zip(samples, captions, strict=True)],
                    label="Or a simulated image",
                    columns=3,
                    format="png",
                    allow_preview=False,
                    buttons=[],
                    interactive=False,
                    object_fit="cover",
                    height="auto",
                    elem_id="samples",
                )
                gr.Markdown(PRIVACY, elem_id="privacy")
            with gr.Column(scale=3, min_width=280):
                opacity = gr.Slider(0, 1, 0.5, step=0.05, label="Opacity of the masks", elem_id="opacity")
                answer = gr.HTML(
                    '<section class="answer"><p>The answer will appear here.</p></section>', elem_id="answer"
                )
        with gr.Tab("Model", id="about"):
            gr.Markdown(model_card(name), elem_id="card")

        _take_uploads_only(file)
        # One image at a time for all visitors, so that memory stays flat.
        one = {"outputs": answer, "concurrency_limit": 1, "concurrency_id": "one"}
        for event in (
            button.click(show, [file, dy, dx], api_name="segment", **one),
            file.upload(show, [file, dy, dx], api_visibility="private", **one),
            gallery.select(show_sample, None, api_visibility="private", **one),
        ):
            event.then(None, js=_SCROLL_ON_A_PHONE)
        opacity.change(None, opacity, js="(v) => document.documentElement.style.setProperty('--opacity', v)")
        page.load(None, js='() => document.getElementById("answer").setAttribute("aria-live", "polite")')
    return page.queue(max_size=MAX_WAITING)


def _take_uploads_only(component: Any) -> None:
    """Keep a file component from fetching a URL that a crafted call names: the server asks no other host."""
    move = component.async_move_resource_to_block_cache

    async def move_upload(path: Any) -> str | None:
        if str(path).startswith(("http://", "https://")):
            raise ValueError("only uploads are taken")
        return await move(path)

    component.async_move_resource_to_block_cache = move_upload


# -- the server ----------------------------------------------------------------------------------------------


class Guard:
    """ASGI middleware: refuses large requests while they come in, and adds headers to what goes out.

    Gradio limits files only; whoever sends a gigabyte of JSON would have it parsed.
    """

    def __init__(self, app: Any, limit: int = MAX_BODY_MB * _MB) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.exceptions import HTTPException

        length = Headers(scope=scope).get("content-length", "0")
        seen = 0

        async def counted() -> dict[str, Any]:
            nonlocal seen
            message = await receive() if length.isdigit() and int(length) <= self.limit else {}
            seen += len(message.get("body", b""))
            if not message or seen > self.limit:
                raise HTTPException(413, f"The request is larger than {self.limit // _MB} MB.", {"connection": "close"})
            return message

        async def headed(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, counted, headed)


def _sweep(folder: Path, kept: set[str], older_than: float) -> None:
    """Delete files that came more than so many seconds ago, whole or not, and the folders they leave empty."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is inside comes before its folder
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()
            elif str(path) not in kept and time.time() - path.lstat().st_ctime > older_than:
                path.unlink()


@contextlib.contextmanager
def serving(
    segmenter: Segmenter,
    *,
    name: str = "U-Net",
    host: str = "127.0.0.1",
    port: int | None = None,
    keep_seconds: float = KEEP_SECONDS,
) -> Iterator[str]:
    """Serve the page as long as the block runs.

    Uploads go to a folder of this server alone, which is swept while it runs and deleted when it ends. Gradio's own
    ``delete_cache`` is not enough: it leaves uploads that broke off.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one.
    name : str
        Of its weights.
    host : str, default "127.0.0.1"
        Which of this machine's addresses answers; ``"0.0.0.0"`` lets others in.
    port : int, optional
        By default the first that is free from 7860.
    keep_seconds : float, default 300
        Age at which uploads are deleted.

    Yields
    ------
    str
        Address of the page on this machine.

    Raises
    ------
    PageError
        If the port is used by another program.
    """
    # Gradio by default keeps a record of the last ten thousand events and makes a table of them after each.
    variables = {"GRADIO_ANALYTICS_MAX_EVENTS": "100", "GRADIO_ANALYTICS_CACHE_FREQUENCY": "50"}
    with (
        tempfile.TemporaryDirectory(prefix="busutils-page-", ignore_cleanup_errors=True) as name_of_folder,
        jobs.environment(variables | {"GRADIO_TEMP_DIR": str(folder := Path(name_of_folder).resolve())}),
    ):
        page = build(segmenter, name=name)
        import gradio as gr
        from starlette.middleware import Middleware

        kept = {str(path) for path in folder.rglob("*")}  # the samples' thumbnails
        closed = threading.Event()

        def sweep() -> None:
            while not closed.wait(min(keep_seconds, 15)):
                _sweep(folder, kept, keep_seconds)
                # glibc keeps the memory of past answers in every thread's own heap; hand it back to the system.
                with contextlib.suppress(AttributeError, OSError, TypeError):  # systems without glibc
                    ctypes.CDLL(None).malloc_trim(0)

        threading.Thread(target=sweep, name="busutils-sweep", daemon=True).start()
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                max_file_size=MAX_FILE_MB * _MB,
                state_session_capacity=10,  # Gradio keeps the last answers of so many visitors; the page needs none
                app_kwargs={"middleware": [Middleware(Guard)], "openapi_url": None},
                css_paths=[Path(__file__).with_name("page.css")],
                theme=gr.themes.Default(
                    primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
                ),
            )
        except OSError as error:
            closed.set()
            raise PageError(
                f"the page cannot use port {port} of {host}, perhaps another program does: give another --port"
            ) from error
        try:
            yield address
        finally:
            closed.set()
            page.close(verbose=False)
