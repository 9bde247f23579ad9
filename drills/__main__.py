"""Run the `stormgate` command line with `python -m drills`."""

from drills.cli.main import main

if __name__ == "__main__":
    main()
