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

_OLD_NAME = (
    "it imports spikingjelly.clock_driven, which SpikingJelly has called spikingjelly.activation_based since 0.0.0.0.13: write "
    "that in its imports, LIFNode(step_mode='m') for MultiStepLIFNode and its like, and name the arguments of neurons; see "
    "“SpikingJelly 0.0.0.0.12 and older” in docs/your-model.md"
)
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
    if module_name.endswith(".py"):
        raise KdsnnError(
            f"{source}: a module is named as Python imports it; write {module_name.removesuffix('.py')}:{factory_name}"
        )
    sys.path.insert(0, "")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output may have to be JSON
            module = getattr(importlib.import_module(module_name), factory_name)()
            if isinstance(module, nn.Module):
                module.eval()
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        if isinstance(error, ImportError) and "clock_driven" in str(error):
            raise KdsnnError(f"{source}: {_OLD_NAME}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise KdsnnError(f"{source}: cannot be built ({type(error).__name__}: {reason})") from error
    finally:
        with contextlib.suppress(ValueError):  # that code may have removed it
            sys.path.remove("")
    if not isinstance(module, nn.Module):
        raise KdsnnError(f"{source}: it returned a {type(module).__name__}; the factory must return a torch module")
    return module
