"""``python -m mgraph_cli`` is ``mgraph``, where a launcher wants a module."""

from mgraph_cli.main import main

main()
