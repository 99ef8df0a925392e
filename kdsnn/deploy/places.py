"""Where commands write: one at a time into the same files, and into temporary folders that go with them."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from exporters.files import atomic_path
from kdsnn.errors import KdsnnError, OptionError


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Let one process at a time write the files of `out`: `out` itself, and those beside or in it. Its folder must exist.

    The lock is on an open file, `.NAME.lock` beside `out`, so that it ends with this process, however that ends; the
    file is deleted with it, and one that a killed process has left is taken over. Where the system or the file system
    has no locks, nothing is held: each file is still whole by itself.

    Raises:
        KdsnnError: another process holds it.
    """
    if os.name != "posix":
        yield
        return
    file = out.with_name(f".{os.fsencode(out.name)[:200].decode(errors='ignore')}.lock")
    descriptor = None
    try:
        descriptor = _locked(file, out)
        with suppress(OSError):  # the number is a courtesy, and the disk may be full
            os.truncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
        _delete_unless_held(file)


def writable_folder(out: Path) -> None:
    """Make the output folder and try a file in it, before the work rather than after.

    Raises:
        KdsnnError: a file has this name; OSError: it cannot be made or written, or its disk is full.
    """

    class Tried(Exception):  # noqa: N818 - no error: nothing is to stay
        pass

    try:
        with suppress(Tried), atomic_path(out / ".probe") as probe:
            probe.write_bytes(bytes(4096))
            raise Tried
    except FileExistsError:
        raise KdsnnError(f"{out}: this is a file; give a folder") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error


def writable_file(out: Path) -> None:
    """Try a file's folder in the same way; it must not be a folder or a device itself.

    Raises:
        KdsnnError, OSError: as `writable_folder`, and something that is no file has this name.
    """
    if out.is_dir():
        raise KdsnnError(f"{out}: this is a folder; give a file name")
    if out.exists() and not out.is_file():
        raise KdsnnError(f"{out}: this is a device or a pipe; give a file name")
    writable_folder(out.parent)


def require_other(out: Path, option: str, *read: Any) -> None:
    """Refuse to write over what is read.

    Args:
        out: where something is to be written.
        option: that says so.
        read: files, data sets by name, and whatever else a verb takes, which is no file.

    Raises:
        OptionError: `out` is one of the files.
    """
    for one in read:
        source = Path(str(one).removeprefix("npz:")) if isinstance(one, str | Path) else None
        with suppress(OSError, ValueError):  # neither has to exist, or to be a name of a file at all
            if source is not None and out.samefile(source):
                raise OptionError(f"{{{option}}}: {out} is what is read; choose another name", **{option: None})


def require_checkpoint_name(out: Path) -> None:
    """Refuse a name that no checkpoint can have.

    Raises:
        KdsnnError: another ending; UnicodeEncodeError: it is no valid UTF-8.
    """
    if out.suffix != ".safetensors":
        raise OptionError("{out}: a checkpoint's name ends in .safetensors", out=out)
    str(out).encode()  # a name that is no valid UTF-8 can be written, but not be read again by safetensors


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of its own in TMPDIR, deleted at the end of the block, even if a signal ends it at the worst moment.

    Raises:
        OSError: there is no place for it.
    """
    folder = Path(tempfile.gettempdir()) / f"kdsnn-{secrets.token_hex(6)}"
    try:
        folder.mkdir(0o700)  # named before it is made: a signal may come while the system makes it
        yield folder
        shutil.rmtree(folder, ignore_errors=True)  # and a signal may come in here
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _locked(file: Path, out: Path) -> int:
    """A descriptor of the locked `file`."""
    import fcntl

    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # who held it before may have deleted it meanwhile: then this would be a lock on nothing
            if _is_there(descriptor, file):
                return descriptor
        except BlockingIOError:
            owner = os.read(descriptor, 20).decode(errors="replace") or "unknown"
            os.close(descriptor)
            raise OptionError(
                f"{out}: another command is writing it (process {owner}); wait for it, or choose another {{out}}",
                out=None,
            ) from None
        except OSError:  # this file system has no locks
            return descriptor
        os.close(descriptor)


def _delete_unless_held(file: Path) -> None:
    """Delete a lock's file by its name, since a signal may come when the file is there and nothing knows it yet."""
    import fcntl

    with suppress(OSError):
        descriptor = os.open(file, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_there(descriptor, file):
                file.unlink()
        finally:
            os.close(descriptor)


def _is_there(descriptor: int, file: Path) -> bool:
    """Whether `file` is still the file that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def writable_checkpoint(out: str | Path | None) -> Path | None:
    """Fail before hours of training rather than after: the checkpoint's place must exist and take a file.

    Returns:
        It as a path.

    Raises:
        KdsnnError: wrong ending, or no place for a file; UnicodeEncodeError; OSError: the folder cannot be written.
    """
    if out is None:
        return None
    require_checkpoint_name(Path(out))
    writable_file(Path(out))
    return Path(out)
