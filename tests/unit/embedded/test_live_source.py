"""A demo with a live source says what is wrong with its arguments before any engine starts."""

from __future__ import annotations

import pytest

from infra.embedded import live
from infra.embedded.errors import EmbeddedError


def test_faulty_arguments_are_reported_in_the_words_of_the_source() -> None:
    with pytest.raises(EmbeddedError) as raised:
        live.source(["evm", "--chain", "etherium", "--rpc-env", "NO_SUCH_VARIABLE"])
    assert "--rpc-env: NO_SUCH_VARIABLE is not set" in str(raised.value)
    assert "did you mean ethereum?" in str(raised.value)
