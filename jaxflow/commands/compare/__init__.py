"""`python -m jaxflow compare`."""
