"""The law of SGD at a minimum, without a grid: a Gaussian, and the area that it sweeps."""
