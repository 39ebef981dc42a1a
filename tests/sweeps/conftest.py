"""The fixtures of the tests of a sweep's folder, and assertions in what these share that show their values."""

import pytest

pytest.register_assert_rewrite("folders")

from folders import half, runs, whole  # noqa: E402, F401 - found here by the tests that name them
