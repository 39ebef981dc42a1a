"""Our own explicit solvers: the loop, the control of its steps, and its two methods."""
