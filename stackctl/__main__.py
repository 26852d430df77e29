"""``python -m stackctl``: the same as the command."""

from stackctl.cli.main import main

main()
