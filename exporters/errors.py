"""The errors that a user can put right."""


class UserError(Exception):
    """Something the user can mend: the message says what, where, and what to do.

    The command line prints it as one line and exits with code 2. Each half of the project has a kind of its own below
    this base, so that who calls one half can tell which of them spoke.
    """

    def __str__(self) -> str:
        """The message in one line, whatever names out of a file it repeats."""
        return " ".join(super().__str__().splitlines())


class DeployError(UserError):
    """What is wrong with a network, a file or a chip: raised by `exporters`, `hardware` and `profilers`."""
