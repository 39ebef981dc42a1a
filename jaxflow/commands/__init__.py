"""What `python -m jaxflow` runs: each command is a dataclass of settings and a function of it."""
