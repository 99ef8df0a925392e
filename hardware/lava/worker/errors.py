"""Problems are explained in one line."""

import errno


class JobError(Exception):
    """One line explains the problem; the client shows it as it is."""


def describe(error: BaseException) -> str:
    """An exception is told in one line."""
    text = " ".join(str(error).split())
    # semaphores have no file name, shared memory has the prefix that `main` gives it; Lava cannot do without either
    named = str(getattr(error, "filename", None) or "/kdsnn-")
    if isinstance(error, OSError) and error.errno in _NO_SHARED_MEMORY and named.startswith("/kdsnn-"):
        text += " (is /dev/shm full, read-only or missing? Docker gives more of it with --shm-size=1g)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_NO_SHARED_MEMORY = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOENT, errno.ENOSYS)
