"""Take the picture of the web page that lesson 07 shows: ``figures/lesson_07_page.png``, simulated images only.

Needs the extras ``app`` and ``browser``, and Chromium (Debian: ``apt-get install --no-install-recommends chromium``).
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from busutils import jobs, models
from busutils.app import page

FIGURE = Path(__file__).parents[1] / "figures" / "lesson_07_page.png"
WEIGHTS = "phantom-light"


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        print("page_screenshot: no Chromium was found; install it", file=sys.stderr)
        return 2
    with page.serving(models.load_weights(WEIGHTS), name=WEIGHTS) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 800}, color_scheme="light")
        tab.goto(address)
        tab.get_by_role("button", name="Thumbnail 3 of 6").click()
        tab.wait_for_selector("#answer .figures")
        tab.mouse.move(0, 0)
        tab.wait_for_timeout(500)  # until nothing moves any more
        shot = Image.open(io.BytesIO(tab.screenshot(full_page=True))).convert("RGB")
        browser.close()
    shot = shot.resize((900, round(shot.height * 900 / shot.width)), Image.Resampling.LANCZOS)
    with jobs.atomic_path(FIGURE) as temporary:
        shot.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(temporary, "png", optimize=True)
    print(f"{FIGURE.name}: {FIGURE.stat().st_size // 1024} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
