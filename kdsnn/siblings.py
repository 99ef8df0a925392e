"""The packages that are installed beside `kdsnn` have everyday names, which a module of the user's own may have too."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

SIBLINGS = ("exporters", "hardware", "profilers")


def require_siblings() -> None:
    """Make sure that `import hardware` and its like find the package beside this one.

    Raises:
        ImportError: something else of that name comes first; in one line, which says where that is.
    """
    beside = Path(__file__).parent.parent.resolve()
    for name in SIBLINGS:
        try:
            spec = find_spec(name)
        except ValueError:  # a module without a spec of its own is none of ours
            spec = None
        found = next(iter(spec.submodule_search_locations or [spec.origin or ""]), "") if spec else ""
        if not found or Path(found).resolve() != beside / name:
            what = f"that is {found}" if found else "there is none"
            raise ImportError(
                f"kdsnn needs the package {name!r} that is installed with it in {beside}, but {what}: rename what has this "
                "name, start Python in another folder, or install kdsnn-deploy again"
            )
