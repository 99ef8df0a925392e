"""Networks run here: on the exact emulator, on Lava, and, as far as cores and limits go, on chips."""
