"""Passes are functions from graph to graph, each of which keeps every spike; lowering is made of them."""
