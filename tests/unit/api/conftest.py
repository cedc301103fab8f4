"""A web node for each test that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api import services as services_module
from api.auth.demo_issuer import ensure_keys
from tests.unit.api.rest_site import Site


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("issuer")
    ensure_keys(directory)
    return directory


@pytest.fixture
def make_site(issuer: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    """Make a site with its own settings, given by the names of their variables."""

    def make(**settings: str) -> Site:
        made = Site(issuer, **settings)
        services_module.services.cache_clear()
        monkeypatch.setattr(services_module, "build", lambda _config: made.parts)
        return made

    yield make
    services_module.services.cache_clear()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()
