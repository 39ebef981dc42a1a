"""The parts of `discovery`: its optimizers with what was derived of them, what it measures, and its pictures."""
