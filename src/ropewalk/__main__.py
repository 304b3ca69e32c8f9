"""The console script, and `python -m ropewalk`, the spelling that `accelerate launch -m ropewalk` needs.

Nothing but the interpreter's own modules loads before the `try`: an interrupt while the program still starts is an
interrupt like any other, one line and exit code 130.
"""

import sys


def run() -> None:
    """Run one command line and leave with its exit code."""
    try:
        from ropewalk.cli.main import main

        code = main()
    except KeyboardInterrupt:
        sys.stderr.write("ropewalk: interrupted: nothing had begun\n")
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    run()
