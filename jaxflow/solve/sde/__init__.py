"""Stochastic differential equations, at fixed steps."""
