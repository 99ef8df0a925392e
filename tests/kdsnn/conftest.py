"""Training in tests calculates alike on every machine."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def one_precision() -> Iterator[None]:
    """Let "auto" mean fp32, for fixtures of a whole file too: results are compared with references that know no bf16, also
    where the processor does. A script that a test starts has to say so itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdsnn.train.precision.faster_in_bf16", lambda device: False)
        yield
