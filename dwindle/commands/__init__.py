"""The commands, a module for each stage: what they take and what they do. `dwindle/cli.py` runs them."""
