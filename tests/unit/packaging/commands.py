"""Checks that the image can run the command line of a container."""

from __future__ import annotations

from collections.abc import Sequence

from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand

from tests.unit.packaging.files import ROOT

# Without `-v 0` Daphne writes a second access log, which is not JSON.
SERVE = [
    *("python", "-m", "daphne", "-v", "0", "-b", "0.0.0.0", "-p", "8000"),
    "swapsite.asgi:application",
]


def check(command: Sequence[str]) -> None:
    """Raise if the command, an option or a file of it does not exist."""
    if list(command) == SERVE:
        return
    assert list(command[:2]) == ["python", "manage.py"], command
    name, *arguments = command[2:]
    app = get_commands()[name]
    found = app if isinstance(app, BaseCommand) else load_command_class(app, name)
    found.create_parser("manage.py", name).parse_args(arguments)
    for argument in arguments:
        assert not argument.startswith("data/") or (ROOT / argument).is_file(), argument
