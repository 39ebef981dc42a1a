"""A diffusion on a grid as a chain that jumps between cells."""
