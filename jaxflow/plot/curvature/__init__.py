"""Eigenvalues of a Hessian: their density, the sharpness along training, and runs past the edge of stability."""
