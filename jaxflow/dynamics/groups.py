"""Groups of parameters that follow equations of their own in one landscape, on one clock."""

from typing import Any

import jax

from jaxflow._completion import complete_arguments
from jaxflow._losses.models import split_model
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Dynamics, Field

PyTree = Any


def _labels_of(labels: Any, params: PyTree) -> PyTree:
    """The label of every leaf of the parameters."""
    labels = labels(params) if callable(labels) else labels
    return jax.tree.map(lambda label, part: jax.tree.map(lambda _: label, part), labels, params)


def _join(parts: list[PyTree]) -> PyTree:
    """Parts of one model, each with `None` in the place of what is in another."""
    pick = lambda *leaves: next((leaf for leaf in leaves if leaf is not None), None)
    return jax.tree.map(pick, *parts, is_leaf=lambda leaf: leaf is None)


@traceable
def grouped(equations: dict[Any, Dynamics], labels: Any) -> Field:
    r"""Each group of parameters by its own equation, with the gradient of one loss at all parameters.

    $d\theta_g = f_g(\theta)\,dt + \sigma_g(\theta)\,dW$, where $f_g$ is the equation of group g with $\partial
    L/\partial\theta_g$ as its gradient. One and the same mini-batch drives all groups, so their noises are drawn from
    one ξ and have the covariance of the gradient over all parameters.

    **Arguments**

    - `equations`: a dynamics for each label, all of one objective over all parameters and on one clock.
    - `labels`: a pytree of labels that is a prefix of the parameters, or a function of them that returns one.

    **Returns** a `Dynamics`, whose state is a dict of the groups' states, each with `None` in the place of other
    groups' parameters. A drift costs a gradient for each group. It is stepped by Euler–Maruyama.

    **Raises** `ValueError`, by `init`, for a label without an equation.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda p: jnp.sum(p["a"] ** 2) + 3.0 * jnp.sum(p["b"])
    >>> each = {"slow": 0.5 * jf.dynamics.gradient_flow(loss), "sign": jf.dynamics.sign_descent(loss)}
    >>> both = grouped(each, {"a": "slow", "b": "sign"})
    >>> velocity = both.drift(0.0, both.init({"a": jnp.ones(1), "b": jnp.ones(1)}))
    >>> print(both.params(velocity)["a"], both.params(velocity)["b"])
    [-1.] [-1.]
    """
    fields = {label: equation.build() for label, equation in equations.items()}
    noisy = any(field.diffusion is not None for field in fields.values())

    def params(state):
        return _join([fields[label].params(part) for label, part in state.items()])

    def init(whole):
        of_leaf = _labels_of(labels, whole)
        found = list(dict.fromkeys(jax.tree.leaves(of_leaf)))
        for label in found:
            if label not in equations:
                known = ", ".join(map(repr, equations))
                raise ValueError(f"labels must be among those of the transforms ({known}), got {label!r}.")
        parts = {label: among_others(label, whole, of_leaf) for label in equations if label in found}
        return {label: field.init(part) for label, (field, part) in parts.items()}

    def among_others(label, whole, of_leaf):
        """A group's equation with the parameters of the others held where they are, and its parameters."""
        part, rest = split_model(whole, jax.tree.map(lambda other: other == label, of_leaf))
        equation = equations[label] if rest is None else complete_arguments(equations[label], rest)
        return equation.build(), part

    def all_among_others(state):
        whole = params(state)
        of_leaf = _labels_of(labels, whole)
        return {label: among_others(label, whole, of_leaf)[0] for label in state}

    def drift(t, state):
        now = all_among_others(state)
        return {label: now[label].drift(t, part) for label, part in state.items()}

    def share(xi, shape):
        """What one group takes of the noise of all: of a pair the first, where one draw is enough for it."""
        if isinstance(xi, tuple) and not isinstance(shape, tuple):
            xi = xi[0]
        return jax.tree.map(lambda x, like: x.astype(like.dtype), xi, shape)

    def brownian(state):
        now = all_among_others(state)
        shapes = [now[label].brownian(part) for label, part in state.items()]
        return next((shape for shape in shapes if isinstance(shape, tuple)), shapes[0])

    def diffusion(t, state, xi):
        now = all_among_others(state)
        return {
            label: now[label].diffusion(t, part, share(xi, now[label].brownian(part)))
            for label, part in state.items()
        }

    return Field(
        drift=drift,
        init=init,
        params=params,
        diffusion=diffusion if noisy else None,
        brownian=brownian if noisy else None,
        time_step=next(iter(fields.values())).time_step,
    )
