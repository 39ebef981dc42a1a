"""Ordinary differential equations: solvers and the control of their steps."""
