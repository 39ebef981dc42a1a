"""Arrays on several devices, and the memory there is."""
