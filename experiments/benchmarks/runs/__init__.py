"""What runs cost, and how true they are: iterates, flows, stochastic and modified equations, metrics, sweeps."""
