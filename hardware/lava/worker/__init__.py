"""The worker: runs a netx file on Lava, part after part. Executed by the Lava environment's Python; imports nothing of this project."""
