"""Token ids of requests: any spelling becomes the canonical one, or a problem."""

from __future__ import annotations

from typing import Final

from aggregator.contracts.ids import TokenId, TokenIdInvalid, parse_token_id
from api.problem import Problem

TOKEN_INVALID: Final = "token_invalid"  # noqa: S105 - the code of a problem


def asked_token(token_id: str) -> TokenId:
    """Parse the id of a path such as `/api/tokens/{token_id}/stats`; raises Problem 422."""
    try:
        return parse_token_id(token_id)
    except TokenIdInvalid as error:
        raise invalid_ids("token_id", [(token_id, str(error))]) from None


def invalid_ids(parameter: str, refused: list[tuple[str, str]]) -> Problem:
    """Return the 422 for malformed ids, each with the reason."""
    return Problem(
        422,
        TOKEN_INVALID,
        f"{parameter}: {refused[0][1]}",
        parameter=parameter,
        errors=[
            {"parameter": parameter, "id": text[:64], "detail": detail} for text, detail in refused
        ],
    )


def not_found() -> Problem:
    """Return the 404 for a token that is unknown or hidden."""
    return Problem(404, "token_not_found", "No such token.")
