"""Measure the page that segments in the browser: bytes of a visit, time to the first mask, time an image.

Serves a page of ``make site`` from this machine, packed as static hosts do (all but images and the network), to a Chromium
that has never seen it, visits again from the service worker's copy, and segments simulated images one after the other.

    python benchmarks/web_load.py --page build/site/web --out figures/web_load.json
"""

from __future__ import annotations

import argparse
import gzip
import http.server
import json
import os
import re
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from busutils import datasets
from busutils.io import read_image

PACKED = {".html", ".css", ".js", ".mjs", ".json", ".svg", ".wasm"}
IMAGES = 20
DONE = re.compile(r"([\d.]+) s\.$")


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; knows how many bytes it sent."""

    def __init__(self, page: Path) -> None:
        files = {path.relative_to(page).as_posix(): path for path in page.rglob("*") if path.is_file()}
        packed = {name: gzip.compress(path.read_bytes()) for name, path in files.items() if path.suffix in PACKED}
        self.sent = 0
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # Chromium heeds no ETag of older ones

            def do_GET(self) -> None:
                name = self.path.lstrip("/") or "index.html"
                if name not in files:
                    return self.send_error(404)
                content = packed.get(name) or files[name].read_bytes()
                tag = f'"{hash(content)}"'
                known = self.headers.get("If-None-Match") == tag  # the service worker asks whether a file changed
                self.send_response(304 if known else 200)
                self.send_header("ETag", tag)
                self.send_header("Cache-Control", "max-age=600")
                if not known:
                    self.send_header("Content-Type", self.guess_type(name))
                    self.send_header("Content-Length", str(len(content)))
                    if name in packed:
                        self.send_header("Content-Encoding", "gzip")
                self.end_headers()
                if not known:
                    self.wfile.write(content)
                    server.sent += len(content)

            def log_message(self, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def seconds_to_mask(tab: Any, address: str) -> float:
    start = time.monotonic()
    tab.goto(address)
    tab.get_by_text("segmented on this device").wait_for()
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", type=Path, default="build/site/web")
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument("--out", type=Path, default="figures/web_load.json")
    args = parser.parse_args()

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    first, again, image, sizes = [], [], [], []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        for visit in range(args.visits):
            server = Server(args.page)
            address = f"http://127.0.0.1:{server.server_port}/"
            # A profile on disk, as visitors have: the cache in memory of a plain context holds no large file.
            context = playwright.chromium.launch_persistent_context(
                f"{folder}/profile{visit}", executable_path=chromium, args=["--no-sandbox"]
            )
            context.set_default_timeout(120_000)
            tab = context.new_page()
            first.append(seconds_to_mask(tab, address))
            tab.evaluate("navigator.serviceWorker.ready.then(() => null)")
            sizes.append(server.sent)
            again.append(seconds_to_mask(tab, address))
            bytes_again = server.sent - sizes[-1]
            if visit == args.visits - 1:
                for number, record in enumerate(datasets.load("phantom", n=IMAGES, seed=11)):
                    path = Path(folder) / f"scan{number}.png"
                    Image.fromarray(read_image(record.image)).save(path)
                    tab.set_input_files("#file", path)
                    tab.get_by_text(f"{path.name},").wait_for()
                    image.append(float(DONE.search(tab.inner_text("#status"))[1]))
            version = tab.evaluate("navigator.userAgent.match(/Chrome\\/([0-9]+)/)[1]")
            context.close()
            server.shutdown()
    result = {
        "browser": f"Chromium {version}",
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[1], 1),
        "visits": args.visits,
        "first_mask_s": round(statistics.median(first), 2),
        "first_mask_again_s": round(statistics.median(again), 2),
        "image_s": round(statistics.median(image), 2),
        "downloaded_mb": round(sizes[-1] / 2**20, 2),
        "downloaded_again_mb": round(bytes_again / 2**20, 2),
        "network_mb": round((args.page / "network.onnx").stat().st_size / 2**20, 2),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
