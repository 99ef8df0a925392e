"""SANA-FE (Boyle et al. 2025) simulates neuromorphic chips: a placed network is described to it, and run by it where it is
installed. It is under the GPL and therefore a program of its own, in an environment of its own; nothing of it is here."""

from hardware.sanafe.client import SanafeRun, python_path, run
from hardware.sanafe.description import Description, describe

__all__ = ["Description", "SanafeRun", "describe", "python_path", "run"]
