"""Networks that a user's own code makes: `package.module:factory`. Imports torch only when one is called."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from typing import TYPE_CHECKING

from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    from torch import nn

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_factory(source: str) -> bool:
    """Say whether a text reads `package.module:factory`."""
    return _FACTORY.fullmatch(source) is not None


def made_by(source: str) -> nn.Module:
    """Call `package.module:factory` for its module, in eval mode; the package is looked for in the current folder too.

    What that code prints goes to standard error.

    Raises:
        KdsnnError: it cannot be imported or called, or what it returns is no torch module.
    """
    from torch import nn

    module_name, _, factory_name = source.partition(":")
    sys.path.insert(0, "")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output may have to be JSON
            module = getattr(importlib.import_module(module_name), factory_name)()
            if isinstance(module, nn.Module):
                module.eval()
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise KdsnnError(f"{source}: cannot be built ({type(error).__name__}: {reason})") from error
    finally:
        with contextlib.suppress(ValueError):  # that code may have removed it
            sys.path.remove("")
    if not isinstance(module, nn.Module):
        raise KdsnnError(f"{source}: it returned a {type(module).__name__}; the factory must return a torch module")
    return module
