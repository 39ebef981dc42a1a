"""Public names of earlier versions: they warn, name the new one, and do the same."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf


@pytest.mark.parametrize(
    ("package", "old", "new", "arguments"),
    [
        (jf.curvature, "along", "sharpness_along", (lambda x: x @ x, np.ones((2, 3)), 1)),
        (jf.dynamics, "in_time", "schedule_in_time", (jf.optim.inverse_sqrt(0.1), 3)),
        (jf.games, "like", "like_players", ((1.0, 2.0), [3.0, 4.0])),
    ],
)
def test_old_names_work_and_warn(package, old, new, arguments):
    name = f"{package.__name__}.{old} is {package.__name__}.{new} now"
    with pytest.warns(DeprecationWarning, match=name):
        found = getattr(package, old)(*arguments)
    same = getattr(package, new)(*arguments)
    assert type(found) is type(same)
    if old == "like":
        assert found == same
    elif old == "in_time":
        assert jnp.array_equal(found(0.2), same(0.2))
    else:
        np.testing.assert_array_equal(found.eigenvalues, same.eigenvalues)
    assert old not in vars(package)  # nobody finds it by looking
