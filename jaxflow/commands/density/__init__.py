"""`python -m jaxflow density`: SGD's runs, paths of its SDE, and the density of its Fokker–Planck equation."""
