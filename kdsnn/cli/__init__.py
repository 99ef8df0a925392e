"""The command line `kdsnn-deploy`: `app` composes it, one module per verb."""
