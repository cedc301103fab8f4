"""For tests of the admin: an owner that publishes over NATS, a browser and a socket."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any, Self

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.integration.test_web import live_owner
from tests.support.loop_thread import LoopThread
from tests.support.web_nodes import Node
from tests.unit.api.samples import Owner

PASSWORD = "correct horse battery"
_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


@contextmanager
def owner_in_a_thread(nats_url: str, owner: Owner) -> Iterator[Any]:
    """Run the owner in a thread, with heartbeats; `call(patch)` publishes."""
    closing = AsyncExitStack()
    with LoopThread("owner") as thread:
        live = thread.call(closing.enter_async_context(live_owner(nats_url, owner)))

        def publish(*patches: Any) -> None:
            thread.call(live.publish(*patches), 5)

        try:
            yield publish
        finally:
            thread.call(closing.aclose())


class Browser:
    """An operator's browser: cookies, forms and its own address."""

    def __init__(self, node: Node, address: str, name: str = "root") -> None:
        self.client = httpx.Client(
            base_url=node.url, headers={"X-Forwarded-For": address}, timeout=20
        )
        self._name = name

    def __enter__(self) -> Self:
        answer = self.form("/admin/login/", username=self._name, password=PASSWORD)
        assert answer.status_code == 302, answer.text
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def form(
        self,
        path: str,
        page: str | None = None,
        files: dict[str, Any] | None = None,
        **fields: Any,
    ) -> httpx.Response:
        """Fill in the form of `page`, by default that of `path`, and post it to `path`."""
        found = _TOKEN.search(self.client.get(page or path).text)
        assert found is not None, "the page has no form"
        data = {"csrfmiddlewaretoken": found[1], **fields}
        referer = {"Referer": str(self.client.base_url)}
        return self.client.post(path, data=data, files=files, headers=referer)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)


class Socket:
    """A WebSocket and its messages."""

    def __init__(self, node: Node, token: str) -> None:
        self._url = f"ws{node.url.removeprefix('http')}/ws"
        self._token = token
        self._seen: list[dict[str, Any]] = []
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self._token}"}
        connection = connect(self._url, additional_headers=headers)
        self._socket: ClientConnection = self._closing.enter_context(connection)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def send(self, **request: Any) -> None:
        self._socket.send(json.dumps(request))

    def next(self, within_s: float = 5, **fields: Any) -> dict[str, Any]:
        """Return the next message with these fields, and drop those before it."""
        while True:
            while self._seen:
                message = self._seen.pop(0)
                if all(message.get(name) == value for name, value in fields.items()):
                    return message
            self._seen += json.loads(self._socket.recv(timeout=within_s))
