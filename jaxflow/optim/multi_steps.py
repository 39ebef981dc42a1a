"""What a user gives as an optimizer, as a transformation: an `optax.MultiSteps` is not one, and has one inside.

It averages the gradients of k mini-batches for one update.
"""

from typing import Any

import optax


def as_transformation(optimizer: Any, name: str = "optimizer") -> optax.GradientTransformation:
    """What a user gives as an optimizer, as a transformation with its steps; anything else is refused by its name.

    >>> import optax, jaxflow as jf
    >>> from jaxflow.optim.multi_steps import as_transformation
    >>> isinstance(as_transformation(optax.MultiSteps(jf.optim.gd(0.1), 4)), optax.GradientTransformation)
    True
    """
    if isinstance(optimizer, optax.MultiSteps):
        return optimizer.gradient_transformation()
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"{name} must be an optax transformation, got {optimizer!r}.")
    return optimizer


def optimizer_of_updates(optimizer: Any) -> optax.GradientTransformation:
    """The optimizer whose equation describes the updates: of an `optax.MultiSteps` the one inside.

    On all data its k gradients are one, so an update is a step of the optimizer inside.

    >>> import optax, jaxflow as jf
    >>> from jaxflow.optim.multi_steps import optimizer_of_updates
    >>> optimizer_of_updates(optax.MultiSteps(jf.optim.gd(0.1), 4))
    gd(learning_rate=0.1)
    """
    inner, _ = accumulation_of(optimizer) or (optimizer, 1)
    return as_transformation(inner)


def refuse_accumulation(optimizer: Any, why: str) -> None:
    """Refuse an `optax.MultiSteps` where only the optimizer in it has what is asked for."""
    if accumulation_of(optimizer) is not None:
        raise TypeError(
            f"optimizer must be the one inside an optax.MultiSteps, its inner_opt, {why}, got {optimizer!r}."
        )


def accumulation_of(optimizer: Any) -> tuple[Any, int] | None:
    """The optimizer inside an `optax.MultiSteps`, and its number k of mini-batches; `None` for anything else.

    It may be the object itself or its `gradient_transformation()`. Raises `ValueError`, which names the setting,
    where its updates are not those of the inner optimizer on the mean gradient of k mini-batches.

    >>> import optax, jaxflow as jf
    >>> from jaxflow.optim.multi_steps import accumulation_of
    >>> accumulation_of(optax.MultiSteps(jf.optim.gd(0.1), 4))
    (gd(learning_rate=0.1), 4)
    """
    if isinstance(optimizer, optax.GradientTransformation):
        optimizer = getattr(optimizer.init, "__self__", None)
    if not isinstance(optimizer, optax.MultiSteps):
        return None
    settings = vars(optimizer)  # optax has no public way to read them
    if not settings["_use_grad_mean"]:
        raise ValueError("use_grad_mean must be True for an equation of MultiSteps, got False.")
    if not _is_made_by_optax(settings["_should_skip_update_fn"]):
        raise ValueError(
            "should_skip_update_fn must be None for an equation of MultiSteps, as only a run knows which updates are "
            f"skipped, got {settings['_should_skip_update_fn']!r}."
        )
    every = settings["_every_k_schedule"]
    if not _is_made_by_optax(every):
        raise ValueError(
            f"every_k_schedule must be an integer for an equation of MultiSteps, got the schedule {every!r}."
        )
    return optimizer.inner_opt, every(0)


def _is_made_by_optax(function: Any) -> bool:
    """Whether a function is what optax itself puts in the place of an integer, or of no function."""
    return getattr(function, "__qualname__", "").startswith("MultiSteps.__init__.")
