"""The reference pages are up to date, and list every setting and metric."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from aggregator.management.reference import PAGES, declared
from aggregator.runtime.config import Config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == PAGES[name](), "run manage.py reference"


def test_every_setting_and_metric_is_in_its_page() -> None:
    settings = PAGES["docs/configuration.md"]()
    assert all(f"| `{spec.metadata['env']}`" in settings for spec in fields(Config))
    metrics = PAGES["docs/metrics.md"]()
    assert len(declared()) > 40
    assert all(f"| `{name}` |" in metrics for name in declared())
