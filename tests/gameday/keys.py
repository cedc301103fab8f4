"""The issuer of the game: signing keys in a directory, a JWKS over HTTP, and tokens.

The newest key signs. The harness decides what the JWKS contains; the web nodes only read it.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

SCOPE = "stats:read history:read ws:connect ops:read"


class Issuer:
    """Serves the JWKS inside the `with` block; `shown` lists the key ids in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self.shown: list[str] = []
        self._document: dict[str, Any] = {"keys": []}
        self._jwks: dict[str, Any] = {}
        self._tokens: dict[tuple[str, str], str] = {}
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(issuer._document).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    @property
    def url(self) -> str:
        """The URL of the JWKS."""
        return f"http://127.0.0.1:{self._server.server_port}/jwks.json"

    def __enter__(self) -> Self:
        self._thread.start()
        self.show([self.new_key()])
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def new_key(self) -> str:
        """Create a key that is not in the JWKS yet; return its id."""
        kid = uuid.uuid4().hex[:8]
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.directory / f"{kid}.pem").write_bytes(pem)
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
        self._jwks[kid] = public | {"kid": kid, "use": "sig", "alg": "RS256"}
        return kid

    def show(self, kids: list[str]) -> None:
        """Make the JWKS contain these keys."""
        self._document = {"keys": [self._jwks[kid] for kid in kids]}
        self.shown = kids

    def token(self, subject: str) -> str:
        """Return a token signed with the newest key in the JWKS; one per key and subject."""
        kid = self.shown[-1]
        if (kid, subject) not in self._tokens:
            self._tokens[kid, subject] = Signer(self.directory / f"{kid}.pem").token(subject)
        return self._tokens[kid, subject]


class Signer:
    """Signs with one key file; its name is the key's id."""

    def __init__(self, file: Path) -> None:
        self._kid = file.stem
        self._key = load_pem_private_key(file.read_bytes(), password=None)

    def token(self, subject: str) -> str:
        """A token for some hours."""
        now = int(time.time())
        claims = {"sub": subject, "iss": "swaps-demo", "aud": "swaps", "scope": SCOPE}
        times = {"iat": now, "exp": now + 4 * 3600, "jti": uuid.uuid4().hex}
        return jwt.encode(
            {**claims, **times},
            self._key,  # type: ignore[arg-type]
            algorithm="RS256",
            headers={"kid": self._kid},
        )
