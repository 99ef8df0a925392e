"""What the verbs do, without a terminal: load, lower, export, run, check, profile, train."""
