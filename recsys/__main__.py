"""``python -m recsys``: the command, where it is not installed."""

from recsys.cli import main

if __name__ == "__main__":
    main()
