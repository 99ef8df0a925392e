"""`python -m kdsnn`: the same as the command `kdsnn-deploy`."""

from kdsnn.cli.app import main

if __name__ == "__main__":
    main()
