"""Files are written so that whatever goes wrong leaves the old one or the new one, never half of one."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """The block writes to a temporary path beside `path`, which is renamed over `path` if the block succeeds, else
    deleted.

    Missing parent folders are made; a link is followed, so that it stays one. Raises OSError, with `path` for its
    file name, when the place or the disk does not take the file, or `path` is a folder or a device.
    """
    with atomic_paths(path) as (temporary,):
        yield temporary


@contextmanager
def atomic_paths(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Files of one folder that belong together are written as by `atomic_path`: all are on the disk before the first
    is renamed, and no other process that renames several there does so in between."""
    # named before they are made, since a signal (Ctrl-C) may come while the system makes one
    temporaries = tuple(_temporary(path) for path in paths)
    try:
        for path, temporary in zip(paths, temporaries, strict=True):
            _make(path, temporary)
        yield temporaries
        for path, temporary in zip(paths, temporaries, strict=True):
            with _naming(path):
                _finish(temporary)
        with _alone(temporaries[0].parent) if len(paths) > 1 else nullcontext():
            for path, temporary in zip(paths, temporaries, strict=True):
                with _naming(path):
                    temporary.replace(os.path.realpath(path))
    except OSError as error:
        # the writer names the temporary file, or none (a full disk): the user knows neither
        named = dict(zip((None, *map(str, temporaries)), map(str, (paths[0], *paths)), strict=True))
        if error.errno is None or error.filename not in named:
            raise
        raise OSError(error.errno, os.strerror(error.errno), named[error.filename]) from error
    finally:
        for temporary in temporaries:
            with suppress(OSError):
                temporary.unlink()


def _temporary(path: Path) -> Path:
    """The temporary name is beside `path`, hidden, and has the same ending."""
    # a name may have 255 bytes, and this one is longer than `path`'s
    start = os.fsencode(path.name)[:100].decode(errors="ignore")
    ending = path.suffix if len(path.suffix) <= 20 else ""
    return Path(os.path.realpath(path)).with_name(f".{start}.{secrets.token_hex(4)}{ending}")


def _make(path: Path, temporary: Path) -> None:
    """The file starts empty, and only this user may read it as long as it is not whole."""
    with _naming(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():
            raise FileExistsError(errno.EEXIST, "not a file but a device or a pipe")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with _naming(path):
        temporary.touch(0o600, exist_ok=False)


def _finish(temporary: Path) -> None:
    """A written file gets its permissions and is brought to the disk."""
    # the permissions that open() would have given it
    umask = os.umask(0)
    os.umask(umask)
    with suppress(PermissionError):  # network shares and memory cards that have no permissions
        temporary.chmod(0o666 & ~umask)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The block holds a lock on `folder`, where the system has such."""
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # network file systems lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the block are about `path`."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
