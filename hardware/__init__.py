"""Running: the exact emulator, the Lava runner, chip limits and core placement."""
