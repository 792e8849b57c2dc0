"""`python -m ospo_cli`."""

from ospo_cli.cli import main

main()
