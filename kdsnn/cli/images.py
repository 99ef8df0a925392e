"""Loading the images that a command asks for, with noise if wanted, and saying what was done to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdsnn.data import DataSet


def load_images(
    spec: str, sigma: float = 0.0, kind: str = "std", on: str = "train,test", *, quiet: bool = False
) -> DataSet:
    """The data set `spec`; its notes (regenerated variants, noise, skipped files) go to standard error unless `quiet`.

    Raises:
        KdsnnError: an unknown name, a file or option that cannot be used.
    """
    from kdsnn.cli.console import say
    from kdsnn.data import Noise, load

    data = load(spec, noise=Noise.on(on, sigma, kind) if sigma else None)
    if not quiet:
        for note in data.notes:
            say(f"note: {note}")
    return data
