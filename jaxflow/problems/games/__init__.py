"""Problems whose players or branches each follow a gradient of their own: games, GANs and self-supervision."""
