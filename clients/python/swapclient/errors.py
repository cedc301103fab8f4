"""Errors of a subscription; each says what the caller must do before subscribing again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swapclient.sending import IngestReport


class SwapClientError(Exception):
    """Base of all errors of this client."""


class AuthRefused(SwapClientError):
    """The service no longer accepts this token (4001, 4003): open a client with another one.

    `close_code` is the socket's; `reason` is the service's code, such as `token_expired`.
    """

    def __init__(self, close_code: int, reason: str) -> None:
        super().__init__(f"{reason} ({close_code}): give a token that is valid")
        self.close_code = close_code
        self.reason = reason


class ConnectionRefused(SwapClientError):
    """The service closed or refused the connection; the client will retry.

    `code` is the service's, such as `too_many_connections` or `origin_not_allowed`, `reason` is its
    sentence, and `close_code` is the socket's. `attempts` failed in a row; the next one starts in
    `retry_in_s`.
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
    """The service refused the subscription's parameters; the message names the field."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ProtocolFault(SwapClientError):
    """The service sent a message that this version of the client cannot read: upgrade it."""


class IngestFailed(SwapClientError):
    """A batch of swaps was not taken; the batches before it were.

    `code` and `detail` are the service's. `report` is what became of the batches before; give the
    swaps from index `first` on again.
    """

    def __init__(self, code: str, detail: str, report: IngestReport, first: int) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.report = report
        self.first = first


class IngestUnavailable(IngestFailed):
    """The service did not acknowledge a batch in time: try again later."""


class IngestRefused(IngestFailed):
    """The service refuses the request (token, scope, size): correct it before sending again.

    `status` is that of the answer.
    """

    def __init__(
        self, status: int, code: str, detail: str, report: IngestReport, first: int
    ) -> None:
        super().__init__(code, detail, report, first)
        self.status = status
