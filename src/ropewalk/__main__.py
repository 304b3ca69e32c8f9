"""The console script, and `python -m ropewalk`, the spelling that `accelerate launch -m ropewalk` needs.

Nothing but the interpreter's own modules loads before the `try`: an interrupt while the program still starts is an
interrupt like any other, one line and exit code 130.
"""

import os
import sys


def _usable_streams() -> None:
    """Closed streams are Python's None, at which every print would fail: nothing comes from them and all goes nowhere.

    File names that are not UTF-8 reach Python as characters that no encoding holds, and a terminal may hold ASCII
    alone: what cannot be written is escaped instead of ending the command.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def run() -> None:
    """Run one command line and leave with its exit code."""
    try:
        _usable_streams()
        from ropewalk.cli.main import main

        code = main()
    except KeyboardInterrupt:
        sys.stderr.write("ropewalk: interrupted: nothing had begun\n")
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    run()
