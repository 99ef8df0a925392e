"""Functions from graph to graph, each of which keeps every spike: what lowering is made of."""
