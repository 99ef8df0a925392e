"""The command line `kdsnn-deploy`: one module per verb."""
