"""Learning: data, teachers and students, distillation, training, checkpoints, and the command line."""
