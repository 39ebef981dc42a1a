"""What the library claims of its accuracy and speed, measured side by side: `python -m experiments.benchmarks`."""
