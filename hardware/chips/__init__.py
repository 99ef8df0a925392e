"""Chips: their limits as data, what a layer takes on a neurocore, placement, and whether a network fits."""
