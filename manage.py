#!/usr/bin/env python
"""The entry point of every command of the service: `manage.py <command> --help`."""

import os
import sys


def main() -> None:
    """Run the command that the command line names, with the settings of this project."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "swapsite.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
