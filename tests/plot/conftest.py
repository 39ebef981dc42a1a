"""What the tests of pictures share."""

import matplotlib.pyplot as plt
import pytest


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    figure.canvas.draw()  # a picture that cannot be rendered fails here
    plt.close(figure)
