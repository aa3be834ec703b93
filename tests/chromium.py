"""The `browser` fixture: a Chromium for the tests with the marker `browser`. conftest.py imports the fixture."""

import shutil

import pytest


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with api.sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome")
        for executable in (None, *filter(None, map(shutil.which, names))):
            try:
                launched = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
            except api.Error:
                continue
            yield launched
            launched.close()
            return
        pytest.skip("no Chromium: playwright install chromium")
