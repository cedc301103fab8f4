"""What a subscription raises: each says what must be done before it can go on."""

from __future__ import annotations


class SwapClientError(Exception):
    """Base of all errors of this client."""


class AuthRefused(SwapClientError):
    """The service takes this token no more (4001, 4003): open a client with another one.

    `close_code` is that of the socket, `reason` the service's own code such as `token_expired`.
    """

    def __init__(self, close_code: int, reason: str) -> None:
        super().__init__(f"{reason} ({close_code}): give a token that is valid")
        self.close_code = close_code
        self.reason = reason


class ConnectionRefused(SwapClientError):
    """The service closed the connection, or did not let it begin; another attempt follows.

    `code` is the service's own, such as `too_many_connections` or `origin_not_allowed`, `reason`
    its sentence, `close_code` that of the socket. `attempts` came to nothing, one behind another;
    the next one begins in `retry_in_s`.
    """

    def __init__(
        self, code: str, reason: str, close_code: int, retry_in_s: float, attempts: int
    ) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.close_code = close_code
        self.retry_in_s = retry_in_s
        self.attempts = attempts


class RequestRefused(SwapClientError):
    """The subscription cannot be had as it was asked for; the message names the field."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ProtocolFault(SwapClientError):
    """The service sent what this version of the client cannot read: get a newer one."""
