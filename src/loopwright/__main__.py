"""Makes `python -m loopwright` the same as the command `loopwright`."""

from loopwright.cli import main

if __name__ == "__main__":
    main()
