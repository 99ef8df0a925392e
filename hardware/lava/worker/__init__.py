"""The worker runs a netx file on Lava, part after part. The Lava environment's Python executes it; it imports nothing
of this project."""
