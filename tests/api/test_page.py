# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's own page, in a real browser."""

import shutil
import subprocess
import sys

import pytest
from PIL import Image

from msd_blender.protocol import JobRequest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
DRIVER = subprocess.run([sys.executable, "-m", "playwright", "--version"], capture_output=True).returncode
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    not CHROMIUM or DRIVER != 0,
    reason="there is no browser that can be driven here: apt-get install chromium libatomic1",
)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        yield opened
        opened.close()


@pytest.fixture
def page(browser, server):
    opened = browser.new_page(viewport={"width": 1280, "height": 960})
    said = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(server.url)
    yield opened
    opened.close()
    assert not [line for line in said if "GPU stall" not in line and "422" not in line]


def test_a_job_grows_in_the_page_and_leaves_its_files(page, server, tiny, tmp_path):
    expect = sync_api.expect
    job = server.client().submit(JobRequest("a red <b>mushroom</b>", **{**tiny, "iterations": 60}))
    page.get_by_role("button", name="a red <b>mushroom</b>").first.click()
    expect(page.locator("#progress")).to_contain_text("of 60", timeout=60_000)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#state")).to_contain_text("paused", timeout=30_000)
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#state")).to_contain_text("finished", timeout=200_000)
    # Grey at the corner, and something else in the middle: the mesh is there.
    page.wait_for_timeout(500)
    shot = tmp_path / "page.png"
    page.locator("#preview").screenshot(path=shot)
    with Image.open(shot) as image:
        middle, corner = (image.convert("RGB").getpixel(at) for at in ((image.width // 2, image.height // 2), (20, 20)))
    assert corner == (191, 191, 191) != middle
    with page.expect_download() as download:
        page.get_by_role("button", name="mesh.glb").click()
    kept = server.data / "jobs" / job.id / "mesh.glb"
    assert download.value.path().read_bytes() == kept.read_bytes()


def test_what_the_server_refuses_is_said(page):
    page.locator("#prompt").evaluate("field => field.removeAttribute('maxlength')")
    page.fill("#prompt", "x" * 1001)
    page.get_by_role("button", name="Generate").click()
    sync_api.expect(page.locator("#refusal")).to_contain_text("shorten it")
