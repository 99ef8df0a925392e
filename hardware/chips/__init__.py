"""A chip is its limits as data; from these follow what a layer takes on a neurocore, the placement, and whether a
network fits."""
