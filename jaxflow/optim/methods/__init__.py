"""The optimizers: descent, adaptive methods, those that switch or alternate, a genetic one; and what they share."""
