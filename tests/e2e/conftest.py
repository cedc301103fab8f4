"""The dashboard of the page's tests: one stack and one browser per file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import sync_playwright

from infra.embedded.stack import Stack
from tests.e2e.dashboard import Dashboard
from tests.support.browser import chromium
from tests.support.service import Service


@pytest.fixture(scope="module")
def dashboard(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    path = chromium()
    directory = tmp_path_factory.mktemp("page")
    with sync_playwright() as driver, Service(directory, stack) as service:
        # A browser's sandbox needs privileges that a container or root does not have.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        found = Dashboard(service, browser)
        found.start()
        yield found
        browser.close()
