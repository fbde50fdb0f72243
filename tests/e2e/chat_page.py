"""The page to chat on in headless Chromium, for the tests that look at it."""

import os
import pathlib
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    assert path, "Debian's chromium is missing: scripts/setup test installs it"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


def configure(page, **values):
    page.locator("#settings summary").click()
    for name, value in values.items():
        page.locator("#" + name.replace("_", "-")).fill(str(value))
    page.locator("#settings summary").click()


def ask(page, text):
    page.locator("#prompt").fill(text)
    page.locator("#prompt").press("Enter")


def wait_for_answer(page, count=1):
    expect(page.locator(".assistant .meta")).to_have_count(count)
    expect(page.locator("#send")).to_be_visible(timeout=60000)


def keep_screenshot(page, name):
    """Where THERMOCLINE_SCREENSHOTS says, if it does."""
    if folder := os.environ.get("THERMOCLINE_SCREENSHOTS"):
        page.screenshot(path=pathlib.Path(folder) / f"{name}.png")
