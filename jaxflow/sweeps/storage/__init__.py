"""A sweep's folder: finished batches on disk, what makes sure of them, and what is said when the disk fails."""
