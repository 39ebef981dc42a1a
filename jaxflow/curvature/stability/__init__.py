"""Which sharpness an optimizer can bear, and the sharpness along its run."""
