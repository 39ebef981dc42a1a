"""Flows at the edge of stability and past it."""
