"""Attacks on the verification of tokens, and the code with which each must be refused.

A row is a name, the token, the code and the claim at fault. Every token is valid but for what its
name says.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.auth.jwt import LONGEST_KEY_ID, LONGEST_NAME, LONGEST_TOKEN

NOW = 1_700_000_000
LEEWAY_S = 10
KID = "2023-11"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)
ELLIPTIC = ec.generate_private_key(ec.SECP256R1())
PUBLIC_PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
GOOD = {
    "sub": "someone",
    "iss": "swaps-demo",
    "aud": "swaps",
    "iat": NOW,
    "exp": NOW + 60,
    "scope": "stats:read ws:connect",
}


def b64(raw: bytes | dict[str, Any]) -> str:
    data = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(
    header: bytes | dict[str, Any],
    payload: bytes | dict[str, Any],
    key: Any = KEY,
    algorithm: str = "RS256",
) -> str:
    """Return a token signed with `algorithm` by `key`, whatever the header says."""
    signing_input = f"{b64(header)}.{b64(payload)}".encode()
    signature = jwt.get_algorithm_by_name(algorithm).sign(signing_input, key)
    return f"{signing_input.decode()}.{b64(signature)}"


def token(drop: str = "", header: dict[str, Any] | None = None, **claims: Any) -> str:
    payload = {name: value for name, value in {**GOOD, **claims}.items() if name != drop}
    return raw_token({"alg": "RS256", "typ": "JWT", "kid": KID, **(header or {})}, payload)


def forged(**header: Any) -> str:
    """Return a token signed by another key, with a header that hides it; `kid=""` omits the kid."""
    said = {"alg": "RS256", "typ": "JWT", "kid": KID, **header}
    return raw_token({k: v for k, v in said.items() if v != ""}, GOOD, OTHER)


def public_jwk(key: rsa.RSAPrivateKey) -> dict[str, Any]:
    jwk: dict[str, Any] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    return jwk


def _hmac_by(secret: bytes, digest: str = "sha256", alg: str = "HS256") -> str:
    signing_input = f"{b64({'alg': alg, 'typ': 'JWT', 'kid': KID})}.{b64(GOOD)}"
    return f"{signing_input}.{b64(hmac.new(secret, signing_input.encode(), digest).digest())}"


def _part(number: int, change: Callable[[str], str]) -> str:
    parts = token().split(".")
    parts[number] = change(parts[number])
    return ".".join(parts)


def _other_spelling(signature: str) -> str:
    """Set the four unused bits of the last of the 342 characters, which are zero in base64url."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return signature[:-1] + alphabet[alphabet.index(signature[-1]) | 1]


def _flip(signature: str) -> str:
    return ("B" if signature[0] == "A" else "A") + signature[1:]


def _twice(first: str, second: str) -> bytes:
    """Return the good claims with one of them twice."""
    return f"{{{first},{json.dumps(GOOD)[1:-1]},{second}}}".encode()


_HEADER = {"alg": "RS256", "typ": "JWT", "kid": KID}
_MALFORMED = ("token_malformed", "")
_ALGORITHM = ("token_algorithm", "")
_SIGNATURE = ("token_signature", "")
_KEY = ("token_key", "")
_TYPE = ("token_type", "")

Attack = tuple[Callable[[], str], tuple[str, str]]

SHAPE: dict[str, Attack] = {
    "empty": (lambda: "", _MALFORMED),
    "garbage": (lambda: "garbage", _MALFORMED),
    "two dots": (lambda: "..", _MALFORMED),
    "one dot": (lambda: "a.b", _MALFORMED),
    "five parts, encrypted": (lambda: token() + ".a.b", _MALFORMED),
    "empty header": (lambda: "." + token().split(".", 1)[1], _MALFORMED),
    "empty payload": (lambda: _part(1, lambda _: ""), _MALFORMED),
    "header is a list": (lambda: raw_token(b"[]", GOOD), _MALFORMED),
    "header is no JSON": (lambda: raw_token(b"\xff", GOOD), _MALFORMED),
    "header of one character": (lambda: _part(0, lambda _: "e"), _MALFORMED),
    "not ASCII": (lambda: token() + "é", _MALFORMED),
    "too long": (lambda: "e" * (LONGEST_TOKEN + 1), _MALFORMED),
    "huge header": (lambda: token(header={"x": "y" * LONGEST_TOKEN}), _MALFORMED),
    "header nested 2,000 deep": (
        lambda: raw_token(b'{"alg":"RS256","x":' + b"[" * 2_000 + b"]" * 2_000 + b"}", GOOD),
        _MALFORMED,
    ),
    "number of 5,000 digits": (
        lambda: raw_token(_HEADER, b'{"exp":' + b"9" * 5_000 + b"}"),
        _MALFORMED,
    ),
    "payload is a list": (lambda: raw_token(_HEADER, b"[1]"), _MALFORMED),
    "payload is no JSON": (lambda: raw_token(_HEADER, b"\xff"), _MALFORMED),
    "payload holds NaN": (lambda: raw_token(_HEADER, b'{"exp":NaN}'), _MALFORMED),
    "payload holds Infinity": (lambda: raw_token(_HEADER, b'{"exp":Infinity}'), _MALFORMED),
    "payload and more": (lambda: raw_token(_HEADER, json.dumps(GOOD).encode() + b"{}"), _MALFORMED),
    "nested JWT": (
        lambda: raw_token({**_HEADER, "cty": "JWT"}, token().encode()),
        _MALFORMED,
    ),
    "blank before": (lambda: " " + token(), _MALFORMED),
    "blank inside": (lambda: token()[:20] + " " + token()[20:], _MALFORMED),
    "line end after": (lambda: token() + "\n", _MALFORMED),
    "null byte after": (lambda: token() + "\0", _MALFORMED),
    "bytes after the signature": (lambda: token() + "!!", _MALFORMED),
    "two tokens": (lambda: f"{token()} {token()}", _MALFORMED),
    "plain base64 alphabet": (lambda: _part(2, lambda part: part + "+/"), _SIGNATURE),
    "unencoded payload": (
        lambda: token(header={"b64": False, "crit": ["b64"]}),
        _MALFORMED,
    ),
    "b64 that need not be understood": (lambda: token(header={"b64": False}), _MALFORMED),
    "unknown critical header": (lambda: token(header={"crit": ["x"], "x": 1}), _MALFORMED),
    "empty crit": (lambda: token(header={"crit": []}), _MALFORMED),
    "alg twice in the header": (
        lambda: raw_token(b'{"alg":"none","alg":"RS256"}', GOOD),
        _MALFORMED,
    ),
    "kid twice in the header": (
        lambda: raw_token(b'{"kid":"x","alg":"RS256","kid":"2023-11"}', GOOD),
        _MALFORMED,
    ),
    "sub twice": (lambda: raw_token(_HEADER, _twice('"x":1', '"sub":"root"')), _MALFORMED),
    "exp twice": (lambda: raw_token(_HEADER, _twice('"x":1', f'"exp":{NOW + 9**9}')), _MALFORMED),
}

ALGORITHM: dict[str, Attack] = {
    "none": (lambda: f"{b64({'alg': 'none'})}.{b64(GOOD)}.", _ALGORITHM),
    "None in capitals": (lambda: f"{b64({'alg': 'NONE'})}.{b64(GOOD)}.", _ALGORITHM),
    "none with a good signature": (lambda: token(header={"alg": "none"}), _ALGORITHM),
    "no algorithm": (lambda: raw_token({"typ": "JWT"}, GOOD), _ALGORITHM),
    "algorithm is null": (lambda: token(header={"alg": None}), _ALGORITHM),
    "algorithm is a list": (lambda: token(header={"alg": ["RS256"]}), _ALGORITHM),
    "algorithm in small letters": (lambda: token(header={"alg": "rs256"}), _ALGORITHM),
    "HS256 by the public key": (lambda: _hmac_by(PUBLIC_PEM), _ALGORITHM),
    "HS256 by the public key without its last line end": (
        lambda: _hmac_by(PUBLIC_PEM.rstrip()),
        _ALGORITHM,
    ),
    "HS512 by the public key": (lambda: _hmac_by(PUBLIC_PEM, "sha512", "HS512"), _ALGORITHM),
    "HMAC that says RS256": (lambda: _hmac_by(PUBLIC_PEM, alg="RS256"), _SIGNATURE),
    "RS384": (lambda: jwt.encode(GOOD, KEY, algorithm="RS384"), _ALGORITHM),
    "RS512": (lambda: jwt.encode(GOOD, KEY, algorithm="RS512"), _ALGORITHM),
    "PS256": (lambda: jwt.encode(GOOD, KEY, algorithm="PS256"), _ALGORITHM),
    "ES256": (lambda: jwt.encode(GOOD, ELLIPTIC, algorithm="ES256"), _ALGORITHM),
    "ES256 that says RS256": (
        lambda: raw_token(_HEADER, GOOD, ELLIPTIC, "ES256"),
        _SIGNATURE,
    ),
    "RS512 that says RS256": (
        lambda: raw_token(_HEADER, GOOD, KEY, "RS512"),
        _SIGNATURE,
    ),
    "EdDSA": (lambda: token(header={"alg": "EdDSA"}), _ALGORITHM),
    "encrypted with the public key": (
        lambda: token(header={"alg": "RSA-OAEP", "enc": "A256GCM"}),
        _ALGORITHM,
    ),
}

KEYS: dict[str, Attack] = {
    "another key": (lambda: forged(kid=""), _SIGNATURE),
    "another key of the same kid": (forged, _SIGNATURE),
    "a small key of the same kid": (lambda: raw_token(_HEADER, GOOD, SMALL), _SIGNATURE),
    "unknown kid": (lambda: forged(kid="2023-12"), _KEY),
    "kid that is a path": (lambda: forged(kid="../../../../dev/null"), _KEY),
    "kid that is a path to the public key": (lambda: forged(kid="/srv/keys/public.pem"), _KEY),
    "kid with SQL": (lambda: forged(kid="x' UNION SELECT 'secret' --"), _KEY),
    "kid with a command": (lambda: forged(kid="|curl example.org"), _KEY),
    "kid that is a URL": (lambda: forged(kid="https://example.org/jwks.json"), _KEY),
    "kid with a null byte": (lambda: forged(kid=f"{KID}\0x"), _KEY),
    "kid in other letters": (lambda: forged(kid=f"{KID} "), _KEY),
    "kid is empty": (lambda: token(header={"kid": ""}), _MALFORMED),
    "kid is null": (lambda: token(header={"kid": None}), _MALFORMED),
    "kid is a number": (lambda: forged(kid=1), _MALFORMED),
    "kid is a list": (lambda: forged(kid=[KID]), _MALFORMED),
    "kid is an object": (lambda: forged(kid={KID: KID}), _MALFORMED),
    "kid is huge": (lambda: forged(kid="k" * (LONGEST_KEY_ID + 1)), _MALFORMED),
    "its own key in jwk": (lambda: forged(jwk=public_jwk(OTHER)), _SIGNATURE),
    "its own key in jwk, no kid": (lambda: forged(jwk=public_jwk(OTHER), kid=""), _SIGNATURE),
    "jku of another host": (lambda: forged(jku="https://example.org/jwks.json"), _SIGNATURE),
    "jku of a file": (lambda: forged(jku="file:///etc/passwd"), _SIGNATURE),
    "x5u of another host": (lambda: forged(x5u="https://example.org/cert.pem"), _SIGNATURE),
    "its own certificate in x5c": (lambda: forged(x5c=["MIIB"]), _SIGNATURE),
    "changed payload": (lambda: _part(1, lambda _: b64({**GOOD, "sub": "root"})), _SIGNATURE),
    "changed header": (lambda: _part(0, lambda _: b64({**_HEADER, "x": 1})), _SIGNATURE),
    "no signature": (lambda: _part(2, lambda _: ""), _SIGNATURE),
    "truncated signature": (lambda: _part(2, lambda part: part[:-8]), _SIGNATURE),
    "longer signature": (lambda: _part(2, lambda part: b64(b"\0" + b"x" * 256)), _SIGNATURE),
    "signature of zeros": (lambda: _part(2, lambda part: b64(bytes(256))), _SIGNATURE),
    "signature of another byte": (lambda: _part(2, _flip), _SIGNATURE),
    "padded signature": (lambda: _part(2, lambda part: part + "=="), _SIGNATURE),
    "other spelling of the signature": (lambda: _part(2, _other_spelling), _SIGNATURE),
    "logout token": (lambda: token(header={"typ": "logout+jwt"}), _TYPE),
    "type is a list": (lambda: token(header={"typ": ["JWT"]}), _TYPE),
}

CLAIMS: dict[str, Attack] = {
    "expired": (lambda: token(exp=NOW - LEEWAY_S), ("token_expired", "exp")),
    "no exp": (lambda: token(drop="exp"), ("token_claim", "exp")),
    "exp is a text": (lambda: token(exp=str(NOW + 60)), ("token_claim", "exp")),
    "exp is true": (lambda: token(exp=True), ("token_claim", "exp")),
    "exp is null": (lambda: token(exp=None), ("token_claim", "exp")),
    "exp is a list": (lambda: token(exp=[NOW + 60]), ("token_claim", "exp")),
    "exp beyond time": (lambda: token(exp=10**400), ("token_claim", "exp")),
    "exp beyond floats": (
        lambda: raw_token(_HEADER, json.dumps(GOOD).replace(str(NOW + 60), "1e999").encode()),
        ("token_claim", "exp"),
    ),
    "exp below 0": (lambda: token(exp=-1), ("token_claim", "exp")),
    "no iat": (lambda: token(drop="iat"), ("token_claim", "iat")),
    "iat ahead": (lambda: token(iat=NOW + LEEWAY_S + 1), ("token_not_yet_valid", "iat")),
    "iat is a text": (lambda: token(iat=str(NOW)), ("token_claim", "iat")),
    "nbf ahead": (lambda: token(nbf=NOW + LEEWAY_S + 1), ("token_not_yet_valid", "nbf")),
    "nbf is a text": (lambda: token(nbf="now"), ("token_claim", "nbf")),
    "nbf is null": (lambda: token(nbf=None), ("token_claim", "nbf")),
    "no iss": (lambda: token(drop="iss"), ("token_claim", "iss")),
    "another iss": (lambda: token(iss="other"), ("token_issuer", "iss")),
    "iss is a list": (lambda: token(iss=["swaps-demo"]), ("token_issuer", "iss")),
    "iss only begins alike": (lambda: token(iss="swaps-demo.evil"), ("token_issuer", "iss")),
    "iss in other letters": (lambda: token(iss="Swaps-Demo"), ("token_issuer", "iss")),
    "iss is null": (lambda: token(iss=None), ("token_issuer", "iss")),
    "no aud": (lambda: token(drop="aud"), ("token_claim", "aud")),
    "another aud": (lambda: token(aud="other"), ("token_audience", "aud")),
    "aud only begins alike": (lambda: token(aud="swaps-admin"), ("token_audience", "aud")),
    "aud only ends alike": (lambda: token(aud="not-swaps"), ("token_audience", "aud")),
    "aud is a list of others": (lambda: token(aud=["a", "b"]), ("token_audience", "aud")),
    "no audience in the list": (lambda: token(aud=[]), ("token_audience", "aud")),
    "aud is a number": (lambda: token(aud=1), ("token_claim", "aud")),
    "aud holds a number": (lambda: token(aud=["swaps", 1]), ("token_claim", "aud")),
    "aud is an object": (lambda: token(aud={"swaps": 1}), ("token_claim", "aud")),
    "no sub": (lambda: token(drop="sub"), ("token_claim", "sub")),
    "sub is a number": (lambda: token(sub=7), ("token_claim", "sub")),
    "sub is a list": (lambda: token(sub=["someone"]), ("token_claim", "sub")),
    "sub is empty": (lambda: token(sub=""), ("token_claim", "sub")),
    "sub is blank": (lambda: token(sub="  "), ("token_claim", "sub")),
    "sub is huge": (lambda: token(sub="s" * (LONGEST_NAME + 1)), ("token_claim", "sub")),
    "sub with a line end": (lambda: token(sub="a\r\nX: y"), ("token_claim", "sub")),
    "sub is half a character": (lambda: token(sub="\ud800"), ("token_claim", "sub")),
    "scope is a list": (lambda: token(scope=["stats:read"]), ("token_claim", "scope")),
    "jti is a number": (lambda: token(jti=1), ("token_claim", "jti")),
    "jti is huge": (lambda: token(jti="j" * (LONGEST_NAME + 1)), ("token_claim", "jti")),
}

ATTACKS: dict[str, Attack] = SHAPE | ALGORITHM | KEYS | CLAIMS

# Two rows with the same name would be one.
assert len(ATTACKS) == len(SHAPE) + len(ALGORITHM) + len(KEYS) + len(CLAIMS)
