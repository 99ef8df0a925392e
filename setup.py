"""All about this package stands in `pyproject.toml`, but for its description on an index, which is made from the README."""

import re
from pathlib import Path

from setuptools import setup

README = Path(__file__).parent.joinpath("README.md").read_text(encoding="utf-8")


def description(readme: str) -> str:
    """The README without what leads into the repository: an index has neither its files nor an address for them.

    The picture goes, of links to files only their text stays, and no figure says where it comes from; the source
    distribution has all of it.
    """
    readme = re.sub(r"<!--=.*?-->", "", readme)
    without_pictures = re.sub(r"^!\[[^\]]*\]\((?!\w+://)[^)]*\)\n\n?", "", readme, flags=re.MULTILINE)
    return re.sub(r"\[([^\]]+)\]\((?!\w+://|#)[^)\s]+\)", r"\1", without_pictures)


setup(long_description=description(README), long_description_content_type="text/markdown")
