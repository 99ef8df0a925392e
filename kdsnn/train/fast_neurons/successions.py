"""Which layers of this project's networks feed one layer and no other, so that both may run as one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from kdsnn.models import Network


@dataclass(frozen=True, eq=False)
class Succession:
    """What the first module gives goes to the second and nowhere else, unless a hook on one of them sees it.

    `between` are the containers that one of them ends and those that the other begins.
    """

    first: nn.Module
    second: nn.Module
    between: tuple[nn.Module, ...]

    @property
    def unseen(self) -> bool:
        """Say whether no hook is there now."""
        return not any(_hooked(module) for module in (self.first, self.second, *self.between))


def successions(network: nn.Module) -> Iterator[Succession]:
    """Find them in every `Network` within `network`: along sequences, from stem to body, and where a block says so."""
    for whole in network.modules():
        if isinstance(whole, Network):
            yield _between(whole.stem, whole.body)
            for part in whole.modules():
                if type(part) is nn.Sequential:
                    for first, second in pairwise(part):
                        yield _between(first, second)
                for names in getattr(part, "successions", ()):
                    yield Succession(part.get_submodule(names[0]), part.get_submodule(names[1]), ())


def _between(first: nn.Module, second: nn.Module) -> Succession:
    """Go down to the last module of what ends and the first of what begins."""
    passed: list[nn.Module] = []
    while type(first) is nn.Sequential and len(first):
        passed.append(first)
        first = first[-1]
    while type(second) is nn.Sequential and len(second):
        passed.append(second)
        second = second[0]
    return Succession(first, second, tuple(passed))


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)
