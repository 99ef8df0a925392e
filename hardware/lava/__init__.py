"""The bridge to Intel Lava, which lives in an environment of its own."""
