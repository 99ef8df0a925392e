"""The one error that kdsnn raises for anything a user can put right."""


class KdsnnError(Exception):
    """Something the user can mend: the message says what, where, and what to do.

    The command line prints it as one line and exits with code 2.
    """
