"""Examples: bundled sets, arrays and files, checked, standardised and split."""
