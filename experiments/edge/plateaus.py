"""What `edge_of_stochastic_stability` measures on its runs: means over a plateau, gaps, and what moves S there."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow as jf

SPARSE = 6  # of the iterates about a mean every sixth is looked at


class Plateau(NamedTuple):
    """Means over the last third of the steps and over the runs that have not diverged, at one rate and batch size."""

    batch: float  # batch sharpness
    batch_error: float
    pooled: float  # the same, of sums over all steps
    sharpness: float
    sharpness_error: float
    edge: jf.curvature.SelfStabilization
    squared_displacement: float
    diverged: int

    @property
    def balance(self) -> float:
        """⟨x²⟩ over 2α/β."""
        return float(self.squared_displacement * self.edge.stabilization / (2 * self.edge.sharpening))


def plateau(runs, i):
    """The plateau at the i-th rate; errors are from run to run."""
    last = runs.batch.shape[-1] // 3
    alive = np.isfinite(runs.edge.sharpness[i, :, -last:]).all(1)
    kept = alive if alive.any() else ~alive
    of = lambda x: x[i, kept, -last:]
    spread = lambda x: of(x).mean(1).std(ddof=1) / np.sqrt(kept.sum()) if kept.sum() > 1 else np.nan
    return Plateau(
        batch=of(runs.batch).mean(),
        batch_error=spread(runs.batch),
        pooled=of(runs.batch * runs.squared).mean() / of(runs.squared).mean(),
        sharpness=of(runs.edge.sharpness).mean(),
        sharpness_error=spread(runs.edge.sharpness),
        edge=jax.tree.map(lambda x: of(x).mean(), runs.edge),
        squared_displacement=(of(runs.edge.displacement) ** 2).mean(),
        diverged=int((~alive).sum()),
    )


class Gaps(NamedTuple):
    """Gaps at one rate by batch size: measured; by the formula; by the balance of noise alone."""

    measured: np.ndarray
    formula: np.ndarray
    balance: np.ndarray


def gaps(rate, batches, plateaus, reference):
    """The gaps below a reference, the sharpness of gradient descent."""
    formula = [float(each.edge.gap(rate, size)) for size, each in zip(batches, plateaus, strict=True)]
    noise = np.array([each.edge.noise / each.squared_displacement for each in plateaus])
    measured = np.array([reference - each.sharpness for each in plateaus])
    return Gaps(measured, np.array(formula), rate * noise / (2 * np.array(batches)))


def slope(batches, values, least):
    """The power of 1/B with which a gap goes from the batch size `least` on; `None` for less than two."""
    chosen = [i for i, size in enumerate(batches) if size >= least and values[i] > 0]
    if len(chosen) < 2:
        return None
    return float(-np.polyfit(np.log(np.array(batches)[chosen]), np.log(values[chosen]), 1)[0])


def rises_and_falls(objective, starts, rate, size, windows, stride):
    """α at means of `stride` iterates, how fast all motion about them lowers S, and that along u alone; (seeds, 3).

    The mean slope over such motion is ∇L + ½⟨∇³L[d, d]⟩ with the distance d from the mean.
    """
    dot = lambda a, b: jnp.stack(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b))).sum()
    third = lambda at, v: jf.curvature.third_derivative(objective, at, v, v)

    def measure(path):
        middle = jax.tree.map(lambda x: x.mean(0), path)
        u = jax.tree.map(lambda x: x[0], jf.curvature.top_eigenpairs(objective, middle).vectors)
        rise = third(middle, u)
        away = jax.tree.map(lambda x, m: x[::SPARSE] - m[None], path, middle)
        lowering = lambda d: jnp.stack([dot(rise, third(middle, d)), dot(rise, rise) * dot(u, d) ** 2]) / 2
        return jnp.append(-dot(rise, jax.grad(objective)(middle)), jax.lax.map(lowering, away).mean(0))

    def run(start, key):
        draws = {} if size is None else {"batch_size": size, "key": key}
        values = jf.iterate(jf.optim.gd(rate), objective, start, steps=windows * stride, **draws).values
        split = lambda x: x[1:].reshape(windows, stride, *x.shape[1:])
        return jax.lax.map(measure, jax.tree.map(split, values)).mean(0)

    keys = jax.random.split(jax.random.key(6), len(jax.tree.leaves(starts)[0]))
    return np.asarray(jax.jit(jax.vmap(run))(starts, keys))
