"""`python -m ropewalk`, the spelling that `accelerate launch -m ropewalk` needs."""

from ropewalk.cli.main import run

if __name__ == "__main__":
    run()
