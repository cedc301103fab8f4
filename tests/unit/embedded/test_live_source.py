"""A demo with a live source says what is wrong with its arguments before any engine starts."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from infra.embedded import live
from infra.embedded.demo import Service
from infra.embedded.errors import EmbeddedError
from infra.embedded.stack import Stack


def test_faulty_arguments_are_reported_in_the_words_of_the_source() -> None:
    with pytest.raises(EmbeddedError) as raised:
        live.source(["evm", "--chain", "etherium", "--rpc-env", "NO_SUCH_VARIABLE"])
    assert "--rpc-env: NO_SUCH_VARIABLE is not set" in str(raised.value)
    assert "did you mean ethereum?" in str(raised.value)


def test_the_source_runs_beside_the_service_with_metrics_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.embedded.ports.free_port", lambda: 9199)
    service, said = Mock(spec=Service), Mock()
    command = ["manage.py", "run_source", "evm"]
    [line] = live.play(command, Mock(spec=Stack, directory=tmp_path), service, said)
    name, run, proof, environment = service.add.call_args.args
    assert (name, run) == ("source", command)
    assert environment["METRICS_PORT"] == "9199"
    assert "http://127.0.0.1:9199/metrics" in line
    live_log = Mock(written=lambda: '{"event": "source_state", "state": "live"}')
    assert "repeats count once" in proof(live_log)
