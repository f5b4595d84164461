"""The program: ``mgraph``, or ``python -m mgraph_cli``."""

import atexit
import gc
import sys


def main() -> None:
    """Run the command line, which takes a while to import: Ctrl-C may come before that is done."""
    atexit.register(gc.freeze)  # nothing is collected as it ends: that takes a sixth of a short command's time
    gc.set_threshold(10_000)  # imports leave nothing to collect; to look for it takes a twentieth of a short command
    try:
        from mgraph_cli.main import cli

        cli(prog_name="mgraph")
    except KeyboardInterrupt:
        print("Interrupted; nothing was started.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
