from __future__ import annotations
from exporters.from_torch.lowering import Lowering
from exporters.from_torch.values import Affine
def fired(lowering: Lowering, difference: Affine, *, strict: bool) -> Affine:
    raise lowering.unknown("ge")
def product(lowering: Lowering, a: Affine, b: Affine) -> Affine:
    raise lowering.unknown("mul")
