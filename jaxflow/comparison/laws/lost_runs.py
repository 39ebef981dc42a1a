"""Whether two ensembles lose members at different rates, beyond chance."""

import jax
import jax.numpy as jnp
import numpy as np


def divergence_p_value(lost_a: jax.Array, lost_b: jax.Array, paired: bool) -> jax.Array:
    r"""The exact two-sided p-value of equal divergence rates, from flags (n,) and (m,).

    Independent ensembles: Fisher's test, the probability under the hypergeometric law of all splits of the lost
    members that are no more probable than the observed one. Pairs: McNemar's test, the binomial law with p = 1/2
    of the pairs of which exactly one member is lost.
    """
    if paired:
        only_a, only_b = (lost_a & ~lost_b).sum(), (lost_b & ~lost_a).sum()
        k, total, trials = only_a, only_a + only_b, len(lost_a)
        log_law = lambda i: _log_choose(total, i, trials) - np.log(2.0) * total.astype(float)
    else:
        n, m = len(lost_a), len(lost_b)
        k, total, trials = lost_a.sum(), lost_a.sum() + lost_b.sum(), n
        log_law = lambda i: (
            _log_choose(n, i, n + m) + _log_choose(m, total - i, n + m) - _log_choose(n + m, total, n + m)
        )
    law = jax.vmap(log_law)(jnp.arange(trials + 1))
    observed = log_law(k)
    # Splits as probable as the observed one count, whatever their rounding.
    slack = 16 * jnp.finfo(law.dtype).eps * trials
    return jnp.minimum(jnp.where(law <= observed + slack, jnp.exp(law), 0.0).sum(), 1.0)


def _log_choose(n, k, largest: int) -> jax.Array:
    """log C(n, k) for 0 ≤ n ≤ `largest`, −∞ where k is not in 0 … n."""
    log_factorials = jnp.asarray(
        np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, largest + 1)))]), float
    )
    inside = (k >= 0) & (k <= n)
    k = jnp.where(inside, k, 0)
    return jnp.where(inside, log_factorials[n] - log_factorials[k] - log_factorials[n - k], -jnp.inf)
