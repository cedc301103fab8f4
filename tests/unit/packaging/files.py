"""The repository's files, parsed, for the packaging tests."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import yaml

from aggregator.runtime.config import SECRETS, Config

ROOT: Final = Path(__file__).parents[3]
_VARIABLE: Final = re.compile(r"\$\{(\w+):-([^}]*)\}")

SETTINGS: Final = {each.metadata["env"] for each in fields(Config)}
# The settings, the secrets by file, and the variables that Python and numba read.
KNOWN: Final = (
    SETTINGS
    | {f"{name}_FILE" for name in SECRETS}
    | {"NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
)


def yaml_of(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def defaults_filled(value: Any) -> Any:
    """Return `value` as Compose reads it without variables: `${NAME:-default}` is the default."""
    match value:
        case str():
            return _VARIABLE.sub(lambda found: found[2], value).replace("$$", "$")
        case dict():
            return {key: defaults_filled(each) for key, each in value.items()}
        case list():
            return [defaults_filled(each) for each in value]
    return value


def compose() -> dict[str, Any]:
    """Return docker-compose.yml with its defaults."""
    filled: dict[str, Any] = defaults_filled(yaml_of("docker-compose.yml"))
    return filled


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def kubernetes() -> list[dict[str, Any]]:
    """Return every object of the Kubernetes base, in the order of its files."""
    base = ROOT / "infra/k8s/base"
    names = yaml_of("infra/k8s/base/kustomization.yaml")["resources"]
    return [each for name in names for each in yaml.safe_load_all((base / name).read_text())]


def anchors(path: str) -> set[str]:
    """Return the anchors of a Markdown file's headings as code hosts generate them."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
