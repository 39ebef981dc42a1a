"""Eigenvalues of a Hessian: the largest with their eigenvectors, their density, and sums over all of them."""
