"""The Kubernetes base is valid, restricted and complete, and its settings are valid."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from aggregator.runtime.config import load
from tests.unit.packaging import commands
from tests.unit.packaging.files import KNOWN, ROOT, kubernetes, services, yaml_of

Object = dict[str, Any]

# What an overlay adds for a source is checked like the base.
SOURCE = list(yaml.safe_load_all((ROOT / "infra/k8s/source.example.yaml").read_text()))
BASE = kubernetes()
OBJECTS = BASE + SOURCE
# Defined by operators, not by Kubernetes.
FOREIGN = {"ServiceMonitor"}
WORKLOADS = [o for o in OBJECTS if o["kind"] in {"Deployment", "StatefulSet", "Job"}]
NAME = "app.kubernetes.io/name"


def key(each: Object) -> str:
    return f"{each['kind']}/{each['metadata']['name']}"


def named(kind: str, name: str) -> Object:
    return next(o for o in OBJECTS if (o["kind"], o["metadata"]["name"]) == (kind, name))


def pod_of(workload: Object) -> Object:
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def containers() -> list[Any]:
    return [
        pytest.param(workload, each, id=f"{key(workload)}/{each['name']}")
        for workload in WORKLOADS
        for each in pod_of(workload)["containers"] + pod_of(workload).get("initContainers", [])
    ]


workloads = pytest.mark.parametrize("workload", WORKLOADS, ids=key)


@pytest.mark.parametrize("each", [o for o in OBJECTS if o["kind"] not in FOREIGN], ids=key)
def test_it_follows_the_schema_of_kubernetes(each: Object) -> None:
    kubernetes_validate.validate(each, "1.37", strict=True)


def test_the_schema_notices_a_wrong_field() -> None:
    wrong = named("Deployment", "web") | {"replica": 2}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_every_file_is_part_of_the_base() -> None:
    files = {path.name for path in (ROOT / "infra/k8s/base").glob("*.yaml")}
    assert files - {"kustomization.yaml"} == set(
        yaml_of("infra/k8s/base/kustomization.yaml")["resources"]
    )


def test_no_secret_is_part_of_it() -> None:
    assert "Secret" not in {each["kind"] for each in OBJECTS}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_builds_it() -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", ROOT / "infra/k8s/base"],
        capture_output=True,
        text=True,
        check=True,
    )
    objects = [each for each in yaml.safe_load_all(built.stdout) if each]
    assert sorted(map(key, objects)) == sorted(map(key, BASE))
    for each in objects:
        if each["kind"] not in FOREIGN:
            kubernetes_validate.validate(each, "1.37", strict=True)
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == "swaps"


@workloads
def test_its_pods_are_restricted(workload: Object) -> None:
    pod = pod_of(workload)
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == int(services()["web"]["user"].split(":")[0])
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    # Otherwise Kubernetes adds variables such as WEB_PORT, which look like settings.
    assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize(("workload", "container"), containers())
def test_its_container_is_restricted_and_bounded(workload: Object, container: Object) -> None:
    assert container["image"] == "swap-aggregator"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]
    volumes = {each["name"] for each in pod_of(workload)["volumes"]}
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert set(mounts) <= volumes
    assert mounts["tmp"] == "/tmp"


@pytest.mark.parametrize(("workload", "container"), containers())
def test_its_command_exists(workload: Object, container: Object) -> None:
    commands.check(container["args"])


@pytest.mark.parametrize(("workload", "container"), containers())
def test_the_service_takes_these_settings(
    workload: Object, container: Object, tmp_path: Any
) -> None:
    environment = {
        name: value
        for each in container["envFrom"]
        for name, value in named("ConfigMap", each["configMapRef"]["name"])["data"].items()
    }
    for each in container.get("env", []):
        environment[each["name"]] = each.get("value") or workload["metadata"]["name"] + "-0"
    assert set(environment) <= KNOWN
    examples = yaml.safe_load_all((ROOT / "infra/k8s/secret.example.yaml").read_text())
    mounted = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    at = {
        v["secret"]["secretName"]: mounted[v["name"]]
        for v in pod_of(workload)["volumes"]
        if "secret" in v and v["name"] in mounted
    }
    for secret in examples:
        for name, text in secret["stringData"].items():
            (tmp_path / name).write_text(text)
            for variable, value in environment.items():
                if value == f"{at.get(secret['metadata']['name'])}/{name}":
                    environment[variable] = str(tmp_path / name)
    config = load(environment)  # raises ConfigError with every fault
    assert config.redis_url.startswith("rediss://")
    assert config.clickhouse_url


def test_an_aggregator_keeps_its_name_in_the_group() -> None:
    aggregator = named("StatefulSet", "aggregator")
    [container] = pod_of(aggregator)["containers"]
    instance = next(each for each in container["env"] if each["name"] == "KAFKA_INSTANCE_ID")
    assert instance["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    partitions = int(named("ConfigMap", "swaps-settings")["data"]["KAFKA_PARTITIONS"])
    assert aggregator["spec"]["replicas"] <= partitions


@pytest.mark.parametrize("name", ["aggregator", "archiver", "web", "admin"])
def test_it_is_probed_where_it_answers(name: str) -> None:
    workload = next(o for o in WORKLOADS if o["metadata"]["name"] == name)
    [container] = pod_of(workload)["containers"]
    ports = {each["name"] for each in container["ports"]}
    paths = {}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
        paths[probe] = container[probe]["httpGet"]["path"]
    if name == "web":
        # Only the node's ability: stale partitions would take every node out.
        assert paths["readinessProbe"] == "/readyz/node"
        # A node with stale numbers must not be killed.
        assert paths["livenessProbe"] == "/healthz"


@pytest.mark.parametrize("name", ["aggregator", "archiver", "web"])
def test_disruptions_are_bounded_and_selectors_meet(name: str) -> None:
    workload = next(o for o in WORKLOADS if o["metadata"]["name"] == name)
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"] == labels == {NAME: name}
    budget = named("PodDisruptionBudget", name)["spec"]
    assert budget["selector"]["matchLabels"] == labels
    assert budget["maxUnavailable"] in (1, "25%")
    service = named("Service", name)
    assert service["spec"]["selector"] == labels
    monitor = named("ServiceMonitor", name)["spec"]
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"] == labels
    ports = {each["name"] for each in service["spec"]["ports"]}
    assert {each["port"] for each in monitor["endpoints"]} <= ports
    # The name of the job in the alerts.
    assert monitor["jobLabel"] == NAME


def test_the_autoscaler_scales_the_web_nodes() -> None:
    spec = named("HorizontalPodAutoscaler", "web")["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    assert "replicas" not in named("Deployment", "web")["spec"]  # it would fight the autoscaler


def test_the_ingress_sends_to_services_that_exist() -> None:
    [rule] = named("Ingress", "swaps")["spec"]["rules"]
    to = {p["path"]: p["backend"]["service"]["name"] for p in rule["http"]["paths"]}
    assert to == {"/": "web", "/admin/": "admin", "/metrics": "nobody", "/debug/": "nobody"}
    assert named("Service", "nobody")["spec"]["selector"] == {NAME: "nobody"}
    assert not [w for w in WORKLOADS if w["metadata"]["name"] == "nobody"]


def test_nothing_is_open_that_is_not_named() -> None:
    deny = named("NetworkPolicy", "deny-all")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    engines = named("NetworkPolicy", "to-engines")["spec"]["egress"][1]
    assert {each["port"] for each in engines["ports"]} == {9092, 6379, 4222, 9000}
