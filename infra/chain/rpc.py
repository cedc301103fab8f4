"""JSON-RPC calls to the node over one HTTP connection."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from typing import Any, Self

from infra.chain.errors import NodeRefused
from infra.embedded import ports

_TIMEOUT_S = 60


class Rpc:
    """Calls to the node on a local port; not for use by several threads."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(ports.HOST, port, timeout=_TIMEOUT_S)
        self._next_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def __call__(self, method: object, *params: object) -> Any:
        """Return the result of one call. Raises NodeRefused for an error, OSError for no answer."""
        return self.batch([(method, *params)])[0]

    def batch(self, calls: Sequence[tuple[object, ...]]) -> list[Any]:
        """Return the results of calls `(method, *params)` that the node gets in one request."""
        first = self._next_id
        self._next_id += len(calls)
        asked = [
            {"jsonrpc": "2.0", "id": first + place, "method": call[0], "params": call[1:]}
            for place, call in enumerate(calls)
        ]
        answers = {answer["id"]: answer for answer in self._post(asked)}
        results = []
        for place, call in enumerate(calls):
            answer = answers[first + place]
            if "error" in answer:
                raise NodeRefused(f"anvil refused {call[0]}: {answer['error']}")
            results.append(answer["result"])
        return results

    def _post(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        headers = {"Content-Type": "application/json"}
        try:
            self._connection.request("POST", "/", json.dumps(asked), headers)
            answers: list[dict[str, Any]] = json.loads(self._connection.getresponse().read())
        except http.client.HTTPException as error:
            self._connection.close()
            raise OSError(str(error)) from error
        except OSError:
            self._connection.close()
            raise
        return answers
