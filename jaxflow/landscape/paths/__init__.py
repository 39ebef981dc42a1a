"""Paths between minima: straight lines, trained curves, elastic bands, and the tree that connects many minima."""
