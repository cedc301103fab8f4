"""In Compose, Prometheus may read the web nodes' metrics, and nginx's clients may not."""

from __future__ import annotations

from ipaddress import ip_network

from aggregator.runtime.config import load
from tests.unit.packaging.files import compose, services


def test_the_networks_that_prometheus_shares_with_web_are_allowed() -> None:
    found, networks = services(), compose()["networks"]
    web, nginx = set(found["web"]["networks"]), set(found["nginx"]["networks"])
    shared = web & set(found["prometheus"]["networks"])
    subnets = {
        name: ip_network(networks[name]["ipam"]["config"][0]["subnet"])
        for name in shared | {"edge"}
    }
    allowed = load({"METRICS_ALLOW": found["web"]["environment"]["METRICS_ALLOW"]}).metrics_allow
    assert set(allowed) == {subnets[name] for name in shared}
    assert web & nginx == {"edge"}
    assert not any(network.overlaps(subnets["edge"]) for network in allowed)
