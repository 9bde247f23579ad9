"""`python -m drills` does what `stormgate` does."""

from drills.cli.main import main

if __name__ == "__main__":
    main()
