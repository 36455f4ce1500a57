"""`python -m torchloss`: the command line, see torchloss.cli."""

from torchloss.cli import main

if __name__ == "__main__":
    main()
