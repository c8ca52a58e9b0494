"""Load-test the web page: does each visitor get the answer to their own image, and is memory released?

Starts the page as a separate process on this machine, lets users upload simulated images for a while, compares each mask
with one computed here, repeats all of it, and tries uploads that must be refused. Memory is measured when all visitors
have left and their files are deleted: growth from round to round is a leak. The script stops by itself.

    python benchmarks/page_load.py --users 20 --seconds 120 --rounds 2 --out figures/page_load.json
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from busutils import datasets, models
from busutils import io as bio
from busutils.app import answers, page
from busutils.models.segmenter import Segmenter

IMAGES_A_USER = 3
KEEP_SECONDS = 20
WARM_SECONDS = 20


def serve(weights: str) -> None:
    """The page in this process, until its standard input ends; prints its address and its folder."""
    with page.serving(models.load(weights), name=weights, keep_seconds=KEEP_SECONDS) as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        files = sum(path.is_file() for path in folder.rglob("*"))  # thumbnails of the samples
        print(json.dumps({"address": address, "folder": str(folder), "files": files}), flush=True)
        sys.stdin.read()


def resident_mb(pid: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def upload(client: httpx.Client, name: str, content: bytes) -> httpx.Response:
    return client.post("/gradio_api/upload", files={"files": (name, content)})


def segment(client: httpx.Client, name: str, content: bytes) -> str:
    """The page's answer to an upload, as a browser gets it: HTML, or an exception."""
    path = upload(client, name, content).raise_for_status().json()[0]
    payload = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, 0, 0]}
    event = client.post("/gradio_api/call/segment", json=payload).raise_for_status().json()["event_id"]
    events = client.get(f"/gradio_api/call/segment/{event}").raise_for_status().text
    if "event: complete" not in events:
        raise RuntimeError(events[-200:])
    return json.loads(events.split("event: complete\ndata: ", 1)[1].splitlines()[0])[0]


def mask_in(text: str) -> np.ndarray:
    found = re.search(r'download="[^"]*u-net_mask.png" href="data:image/png;base64,([^"]+)"', text)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1])))) == 255


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


class User(threading.Thread):
    """Uploads its own images in turn until time is up."""

    def __init__(self, address: str, images: list[bytes], masks: list[np.ndarray], until: float) -> None:
        super().__init__(daemon=True)
        self.address, self.images, self.masks, self.until = address, images, masks, until
        self.waits: list[float] = []
        self.wrong = 0
        self.errors: list[str] = []

    def run(self) -> None:
        """Upload, wait, compare, until time is up."""
        with httpx.Client(base_url=self.address, timeout=120) as client:
            for turn in range(10**6):
                if time.monotonic() > self.until:
                    return
                which, start = turn % len(self.images), time.monotonic()
                try:
                    text = segment(client, "scan.png", self.images[which])  # one name for all: a mix-up would show
                    self.wrong += not np.array_equal(mask_in(text), self.masks[which])
                    self.waits.append(time.monotonic() - start)
                except Exception as error:  # whatever goes wrong is counted
                    self.errors.append(f"{type(error).__name__}: {error}")


def refusals(address: str, folder: Path) -> dict[str, object]:
    """What the page says to what it must not take."""
    names = [
        "../../evil.png",
        "/etc/evil.png",
        "..\\..\\evil.png",
        "<img src=x onerror=alert(1)>.png",
        "a" * 500 + ".png",
    ]
    said: dict[str, object] = {}
    with httpx.Client(base_url=address, timeout=60) as client:
        try:
            said["upload of 50 MB: status"] = upload(client, "huge.png", bytes(50_000_000)).status_code
        except httpx.TransportError:
            said["upload of 50 MB: status"] = "connection closed"
        letter = segment(client, "letter.png", b"Dear Sir or Madam")
        said["text named .png"] = re.sub(r"<[^>]+>", "", letter)
        inside = harmless = 0
        for name in names:
            reply = upload(client, name, png(np.zeros((64, 64), np.uint8)))
            if reply.status_code != 200:
                inside, harmless = inside + 1, harmless + 1
                continue
            inside += folder in Path(reply.json()[0]).resolve().parents
            harmless += "<img src=x" not in segment(client, name, png(np.zeros((64, 64), np.uint8)))
        said[f"of {len(names)} tricky names, kept inside the upload folder"] = inside
        said[f"of {len(names)} tricky names, harmless in the answer"] = harmless
        paths = ["/etc/passwd", "../../etc/passwd", str(Path(__file__).resolve())]
        statuses = [client.get(f"/gradio_api/file={path}").status_code for path in paths]
        said["files elsewhere: statuses"] = sorted(set(statuses))
    return said


def visit(address: str, images: list[np.ndarray], masks: list[np.ndarray], n_users: int, seconds: float) -> list[User]:
    """Let so many users loose at once; they are still at work when this returns."""
    until = time.monotonic() + seconds
    users = [
        User(address, [png(image) for image in images[u::n_users]], masks[u::n_users], until) for u in range(n_users)
    ]
    for user in users:
        user.start()
    return users


def expected(segmenter: Segmenter, images: list[np.ndarray]) -> list[np.ndarray]:
    compared = {"U-Net": segmenter}
    return [answers.examine(compared, bio.Image(image), "scan.png").masks["U-Net"] for image in images]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120, help="of every round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--weights", default="busi-light")
    parser.add_argument("--out", default="figures/page_load.json")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.weights)
        return

    n = args.users * IMAGES_A_USER
    images = [record.image.read() for record in datasets.load("phantom", n=n, seed=11)]
    segmenter = models.load(args.weights)
    masks = expected(segmenter, images)
    different = len({mask.tobytes() for mask in masks})
    command = [sys.executable, __file__, "--serve", "--weights", args.weights]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        started = json.loads(server.stdout.readline())
        address, folder = started["address"], Path(started["folder"])
        fresh, thumbnails = resident_mb(server.pid), started["files"]
        # The first answers build the network, fill caches and start all threads.
        for user in visit(address, images, masks, args.users, WARM_SECONDS):
            user.join()
        time.sleep(2.5 * KEEP_SECONDS)
        rest = [resident_mb(server.pid)]
        users, peak = [], rest[0]
        for _ in range(args.rounds):
            until = time.monotonic() + args.seconds
            there = visit(address, images, masks, args.users, args.seconds)
            while any(user.is_alive() for user in there) and time.monotonic() < until + 120:
                peak = max(peak, resident_mb(server.pid))
                time.sleep(0.5)
            users += there
            time.sleep(2.5 * KEEP_SECONDS)
            rest.append(resident_mb(server.pid))
        left = sum(path.is_file() for path in folder.rglob("*"))
        said = refusals(address, folder)
    finally:
        with contextlib.suppress(BrokenPipeError):
            server.stdin.close()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
    waits = sorted(wait for user in users for wait in user.waits)
    errors = [error for user in users for error in user.errors]
    result = {
        "weights": args.weights,
        "runtime": models.runtime_name(segmenter),
        "cores": os.cpu_count(),
        "users": args.users,
        "seconds": args.seconds,
        "rounds": args.rounds,
        "answers": len(waits),
        "different_masks_expected": different,
        "answers_of_another_image": sum(user.wrong for user in users),
        "errors": len(errors),
        "users_without_answer": sum(not user.waits for user in users),
        "median_wait_s": round(statistics.median(waits), 2) if waits else None,
        "longest_wait_s": round(waits[-1], 2) if waits else None,
        "memory_of_fresh_server_mb": round(fresh),
        "memory_before_mb": round(rest[0]),
        "memory_peak_mb": round(peak),
        "memory_after_each_round_mb": [round(mb) for mb in rest[1:]],
        "files_left_in_upload_folder": left,
        "thumbnails_among_them": thumbnails,
        "upload_folder_gone_after_stop": not folder.exists(),
        "refusals": said,
    }
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    for error in sorted(set(errors)):
        print(error, file=sys.stderr)


if __name__ == "__main__":
    main()
