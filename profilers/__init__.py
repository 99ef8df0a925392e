"""Counting: parameters, FLOPs, SynOps, energy models, reports."""
