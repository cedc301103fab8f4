"""The limits of a subject at one address, as the admin shows them."""

from __future__ import annotations

import pytest

from aggregator.runtime.config import load
from console.models.access import ApiSubject
from console.pages.access import effective

CONFIG = load({"RATE_LIMIT": "100", "RATE_BURST": "200"})


@pytest.mark.parametrize(
    ("rate", "burst", "said"),
    [
        (None, None, "100 a second, bursts of 200"),
        (500, 1_000, "500 a second, bursts of 1,000"),
        (
            None,
            5_000,
            "100 a second, bursts of 1,000 "
            "(capped at 1,000 by the address's bucket unless RATE_BURST_IP is raised)",
        ),
        (
            2_000,
            5_000,
            "500 a second, bursts of 1,000 (capped at 500 by the address's bucket unless "
            "RATE_LIMIT_IP is raised and at 1,000 by the address's bucket unless RATE_BURST_IP is "
            "raised)",
        ),
    ],
)
def test_a_limit_above_the_addresss_is_capped(
    rate: int | None, burst: int | None, said: str
) -> None:
    assert effective(ApiSubject(subject="big", rate_per_s=rate, burst=burst), CONFIG) == said


def test_with_a_larger_bucket_for_addresses_it_is_in_force() -> None:
    config = load({"RATE_LIMIT_IP": "10000", "RATE_BURST_IP": "20000"})
    subject = ApiSubject(subject="big", rate_per_s=2_000, burst=5_000)
    assert effective(subject, config) == "2,000 a second, bursts of 5,000"
