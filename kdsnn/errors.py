"""The one error that kdsnn raises for anything a user can put right."""

from exporters.errors import UserError

__all__ = ["KdsnnError", "UserError"]


class KdsnnError(UserError):
    """What is wrong with data, a checkpoint, a configuration or a request: raised by `kdsnn`."""
