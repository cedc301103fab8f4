"""Reads and writes the registry as a CSV file; a written file reads back unchanged.

Writing puts an apostrophe before a cell that a spreadsheet would run as a formula, and reading
removes it (OWASP, "CSV Injection"). docs/decisions/027-own-token-import.md says why this is not a
library.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Final

from django.core.exceptions import ValidationError

from console.models.registry import RegisteredToken

COLUMNS: Final = ("token_id", "symbol", "name", "decimals", "hidden", "verified", "spam", "notes")
MOST_ROWS: Final = 50_000
MOST_FAULTS: Final = 50
_FLAGS: Final = frozenset({"hidden", "verified", "spam"})
_WORDS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class BadTable(Exception):
    """What is wrong with a file, one sentence each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def write(tokens: Iterable[RegisteredToken]) -> Iterator[str]:
    """Yield the rows of the file, the header first."""
    line = io.StringIO()
    writer = csv.writer(line)

    def take() -> str:
        text = line.getvalue()
        line.seek(0)
        line.truncate()
        return text

    writer.writerow(COLUMNS)
    yield take()
    for token in tokens:
        writer.writerow([_cell(getattr(token, name)) for name in COLUMNS])
        yield take()


def read(text: str) -> list[RegisteredToken]:
    """Return the validated tokens of the file, existing ones with the changes; save nothing.

    A column that is absent changes nothing. Raises BadTable that names each row at fault, up to
    MOST_FAULTS.
    """
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        names = list(rows.fieldnames or ())
        given = list(rows) if "token_id" in names else []
    except csv.Error as error:
        raise BadTable([f"line {rows.line_num}: {error}"]) from None
    unknown = [name for name in names if name not in COLUMNS]
    if "token_id" not in names or unknown or len(set(names)) != len(names):
        said = f"The first line must name columns, token_id among them: {', '.join(COLUMNS)}."
        raise BadTable([said])
    if len(given) > MOST_ROWS:
        raise BadTable([f"At most {MOST_ROWS:,} rows in one file."])
    return _checked(given)


def _checked(given: list[dict[str, str]]) -> list[RegisteredToken]:
    known = {each.token_id: each for each in RegisteredToken.objects.iterator()}
    found: dict[str, RegisteredToken] = {}
    faults: list[str] = []
    for number, row in enumerate(given, start=2):
        try:
            token = _token(row, known)
            if token.token_id in found:
                raise ValidationError({"token_id": "twice in the file"})
            found[token.token_id] = token
        except ValidationError as error:
            faults += [f"row {number}: {name}: {said}" for name, said in _said(error)]
        if len(faults) >= MOST_FAULTS:
            break
    if faults:
        raise BadTable(faults[:MOST_FAULTS])
    return list(found.values())


def _token(row: dict[str, str], known: dict[str, RegisteredToken]) -> RegisteredToken:
    if None in row or None in row.values():
        raise ValidationError({"row": "not as many cells as columns"})
    cells = {name: _plain(cell.strip()) for name, cell in row.items()}
    named = RegisteredToken(token_id=cells["token_id"])
    named.clean()
    token = known.get(named.token_id, named)
    for name, cell in cells.items():
        if name != "token_id":
            setattr(token, name, _value(name, cell))
    token.clean_fields()
    token.clean()
    return token


def _value(name: str, cell: str) -> object:
    if name in _FLAGS:
        if cell and cell.lower() not in _WORDS:
            raise ValidationError({name: "give 1 or 0"})
        return _WORDS.get(cell.lower(), False)
    if name == "decimals":
        if cell and not (cell.isascii() and cell.isdigit() and len(cell) <= 3):
            raise ValidationError({name: "give a whole number, or nothing"})
        return int(cell) if cell else None
    return cell


def _said(error: ValidationError) -> list[tuple[str, str]]:
    return [(name, said) for name, each in error.message_dict.items() for said in each]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
