"""`python -m jaxflow sweep`."""
