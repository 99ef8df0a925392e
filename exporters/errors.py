"""The one error that exporters, hardware and profilers raise for anything a user can put right."""


class DeployError(Exception):
    """Something the user can mend: the message says what, where, and what to do.

    The command line prints it as one line and exits with code 2.
    """
