"""Back-propagation checked and counted: differences have a best step, a complex step needs none, reverse mode has no
rival.

A tanh network on 500 digits, its cross-entropy L. The slope D along a unit vector v is known by back-propagation,
g·v.

- Differences: (L(θ + hv) − L(θ))/h is off by ½h·D²L, and (L(θ + hv) − L(θ − hv))/2h by h²/6·D³L, while h is large.
  When it is small, rounding of L, of the order ε, is divided by h. So the error has a least value, at h ~ ε^½ and ~
  ε^⅓, of the order ε^½ and ε^⅔: half and two thirds of all digits. Both slopes are measured over random v, and so is
  the step at which their fitted lines cross, in float64 and float32: ε differs by 2²⁹, h by 2^(29/3) = 813.
- A complex step: Im L(θ + ihv)/h has no difference in it, so that h = 10⁻³⁰ does no harm and its error is ε. A
  forward pass written in NumPy, with complex numbers, for each of the parameters: an independent check of all of g.
- The price, in multiplications and additions that the compiler counts. With B examples, m inputs, n hidden units, k
  outputs a loss takes 2B(mn + nk), a gradient by reverse mode 2B(2mn + 3nk) (one product of matrices for each weight
  matrix again, one more to go back through the last), and a slope along one direction by forward mode the same. So
  the gradient costs 2 + k/(m + k) = 2.14 losses in reverse mode, and P·(1 + k/(m + k)) + 1 in forward mode.

Claim: Back-propagation gives all slopes to rounding for two losses; differences give one, to two thirds of the
digits.

Figure: Left: root-mean-square error of slopes over random directions against h: forward differences (circles) and
central ones (squares) in float64, central in float32 (triangles), with h/2 and h²/6 times the derivatives (lines),
and complex steps of 10⁻³⁰ (stars, at one level). Middle: over all parameters, how far each entry of the gradient is
from back-propagation's, over the root-mean-square of entries: complex step, central and forward differences at their
best h. Right: operations of the gradient, over those of a loss, against the number of parameters: reverse mode
(circles), forward mode (squares), with theory (lines).

Measured: Digits, 1,210 parameters, float64: forward differences h^1.001 and h^−1.00, at best 5.8e-8 of the slopes,
at h = 2e-7; central h^1.997 and h^−1.00, 1.8e-10 at 6e-5; in float32 1.2e-4 at .05, an h 795 times as large (theory
813). At h = 2⁻⁷ .9999 and 1.0000 × theory. Complex step: slopes to 5e-16, all entries of the gradient to 4e-15. 310
to 9,610 parameters: reverse mode 2.08–2.16 × a loss (theory 2.135), forward mode 2.16–2.18 × for each direction.

Sources: Rumelhart, Hinton & Williams (1986); Baur & Strassen (1983) for the price; Squire & Trapp (1998), SIAM
Review 40, 110, for the complex step.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

EXAMPLES = 500


def network(hidden, dtype=float):
    """The loss of flat parameters and data, the parameters, and the data."""
    problem = jf.problems.mlp("digits", hidden=(hidden,))
    flat, back = ravel_pytree(problem.params)
    data = jax.tree.map(lambda a: a[:EXAMPLES], problem.objective.data)
    narrow = lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a
    losses = problem.objective.losses
    back = ravel_pytree(jax.tree.map(narrow, problem.params))[1]

    def loss(flat, data):
        return jf.Objective(losses, data)(back(flat))

    return loss, narrow(flat), jax.tree.map(narrow, data)


def along(loss, point, data, directions, lengths):
    """Losses at θ, and at θ ± hv (2, H, n) for all lengths (H,) and directions (n, P), one after another."""

    def at(h, v):
        return jax.lax.map(lambda s: loss(point + s * h * v, data), jnp.array([1.0, -1.0], point.dtype))

    @jax.jit
    def every(lengths, directions):
        found = jax.lax.map(lambda h: jax.lax.map(lambda v: at(h, v), directions), lengths)
        return loss(point, data), found

    here, found = every(lengths.astype(point.dtype), directions.astype(point.dtype))
    return float(here), np.moveaxis(np.asarray(found, float), -1, 0)


def derivatives(loss, point, data, directions):
    """First, second and third derivatives along each direction (n, 3)."""

    @jax.jit
    def every(directions):
        def three(v):
            first = lambda t: jax.jvp(lambda t: loss(point + t * v, data), (t,), (1.0,))[1]
            second = lambda t: jax.jvp(first, (t,), (1.0,))[1]
            return jnp.stack([first(0.0), *jax.jvp(second, (0.0,), (1.0,))])

        return jax.lax.map(three, directions)

    return np.asarray(every(directions))


def complex_loss(flat, data, hidden):
    """The loss in NumPy, of complex parameters in the order of `ravel_pytree`: b, w of each layer."""
    x, y, m, k = np.asarray(data["x"]), np.asarray(data["y"]), 64, 10
    parts = np.split(flat, np.cumsum([hidden, m * hidden, k]))
    z = np.tanh(x @ parts[1].reshape(m, hidden) + parts[0]) @ parts[3].reshape(hidden, k) + parts[2]
    return np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y])


def complex_steps(point, data, hidden, directions):
    """Slopes by complex steps of 10⁻³⁰."""
    point = np.asarray(point)
    return np.array([complex_loss(point + 1e-30j * v, data, hidden).imag for v in directions]) / 1e-30


def operations(hidden):
    """What XLA counts for a loss, a gradient in reverse mode, and a slope in forward mode; and the parameters."""
    loss, point, data = network(hidden)
    functions = (
        lambda p, v, data: loss(p, data),
        lambda p, v, data: jax.grad(loss)(p, data),
        lambda p, v, data: jax.jvp(lambda p: loss(p, data), (p,), (v,)),
    )
    counts = []
    for function in functions:
        told = jax.jit(function).lower(point, point, data).compile().cost_analysis()
        counts.append((told[0] if isinstance(told, list) else told)["flops"])
    return np.array(counts), point.size


def rms(errors):
    """The root-mean-square over the last axis."""
    return np.sqrt(np.mean(errors**2, -1))


def fit(lengths, errors, order, largest):
    """Powers of h where the error is truncation and where it is rounding; and the h at which their lines cross."""
    floor = int(errors.argmin())
    large = (errors > 5 * errors[floor]) & (np.arange(errors.size) < floor) & (lengths < 0.6)
    small = (errors > 10 * errors[floor]) & (np.arange(errors.size) > floor) & (errors < largest)
    power = lambda part: float(np.polyfit(np.log(lengths[part]), np.log(errors[part]), 1)[0])
    constant = lambda part, p: np.exp(np.mean(np.log(errors[part] / lengths[part] ** p)))
    cross = (constant(small, -1.0) / constant(large, order)) ** (1 / (order + 1))
    return power(large), power(small), float(cross)


def differences(hidden, directions, lengths):
    """Errors (H,) of forward and central differences in both precisions, root mean squares, and of complex steps;
    derivatives along a direction, likewise; deviations (3, P) of the gradient's entries."""
    _, narrow, small = network(hidden, jnp.float32)
    wide = lambda a: a.astype(float) if a.dtype == jnp.float32 else a
    point, data = (
        wide(narrow),
        jax.tree.map(wide, small),
    )  # the same numbers, so that one answer is exact for both
    v = np.random.default_rng(0).normal(size=(directions, point.size))
    v = (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32).astype(float)
    exact = derivatives(network(hidden)[0], point, data, jnp.asarray(v))
    width, errors = lengths[:, None], {}
    for name, start, examples in (("float64", point, data), ("float32", narrow, small)):
        same = network(hidden, start.dtype)[0]
        here, (up, down) = along(same, start, examples, jnp.asarray(v), jnp.asarray(lengths))
        errors[f"forward, {name}"] = rms((up - here) / width - exact[:, 0])
        errors[f"central, {name}"] = rms((up - down) / (2 * width) - exact[:, 0])
    errors["complex"] = np.abs(complex_steps(point, data, hidden, v) - exact[:, 0]).max()
    loss = network(hidden)[0]
    g, every = np.asarray(jax.jit(jax.grad(loss))(point, data)), np.eye(point.size)
    best = np.array([2.0**-16, 2.0**-26])
    here, (up, down) = along(loss, point, data, jnp.asarray(every), jnp.asarray(best))
    entries = (
        complex_steps(point, data, hidden, every),
        (up - down)[0] / (2 * best[0]),
        (up[1] - here) / best[1],
    )
    return errors, rms(exact.T), np.abs(np.array(entries) - g) / rms(g)


def draw(axes, lengths, errors, sizes, entries, counts, parameters):
    left, middle, right = axes
    shown = (("forward, float64", "o"), ("central, float64", "s"), ("central, float32", "^"))
    for i, (name, marker) in enumerate(shown):
        left.loglog(lengths, errors[name], marker, color=COLOURS[i], markersize=5, label=name)
    left.loglog(
        lengths, np.full(lengths.size, errors["complex"]), "*", color=COLOURS[3], label="complex step"
    )
    left.loglog(lengths, sizes[1] / 2 * lengths, color=COLOURS[0], linewidth=1)
    left.loglog(lengths, sizes[2] / 6 * lengths**2, color=COLOURS[1], linewidth=1)
    left.set(title="error of a slope", xlabel="h", ylabel="root-mean-square error", ylim=(1e-18, 1))
    bins = np.linspace(-19, -4, 46)
    names = ("complex step", "central, h = 2⁻¹⁶", "forward, h = 2⁻²⁶")
    for i, (name, values) in enumerate(zip(names, entries, strict=True)):
        style = {"color": COLOURS[(3, 1, 0)[i]], "linestyle": ("-", "--", ":")[i], "linewidth": 1.8}
        middle.hist(np.log10(np.maximum(values, 1e-19)), bins, histtype="step", label=name, **style)
    middle.set(
        title="every entry of the gradient", xlabel="log₁₀ of |difference| / size", ylabel="parameters"
    )
    p = np.geomspace(parameters[0], parameters[-1], 50)
    right.loglog(p, np.full(50, 2 + 10 / 74), label="2 + k/(m + k)", **stroke(0))
    right.loglog(p, 1 + p * (1 + 10 / 74), label="1 + P(1 + k/(m + k))", **stroke(1))
    right.loglog(parameters, counts[:, 1] / counts[:, 0], "o", color=COLOURS[0], label="reverse mode")
    forward = 1 + parameters * (counts[:, 2] / counts[:, 0] - 1)
    right.loglog(parameters, forward, "s", color=COLOURS[1], label="forward mode")
    right.set(title="operations of a gradient", xlabel="parameters P", ylabel="losses")
    for ax in axes:
        tidy(ax)
    middle.legend(frameon=False, fontsize="small", loc="upper center")


def main(arguments=None):
    run = common.start("back_propagation", __doc__, arguments)
    lengths = 2.0 ** -np.arange(1, 40)
    errors, sizes, entries = differences(4 if run.quick else 16, 8 if run.quick else 32, lengths)
    told = [operations(n) for n in ((8, 32) if run.quick else (4, 8, 16, 32, 64, 128))]
    counts, parameters = np.array([t[0] for t in told]), np.array([t[1] for t in told])
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    draw(figure.subplots(1, 3), lengths, errors, sizes, entries, counts, parameters)
    headlines, best = {}, {}
    for name, order in (("forward, float64", 1), ("central, float64", 2), ("central, float32", 2)):
        large, small, best[name] = fit(lengths, errors[name], order, 0.2 * sizes[0])
        headlines[f"{name}: power of h where it is large"] = common.near(large, order, by=0.1)
        headlines[f"{name}: power of h where it is small"] = common.near(small, -1.0, by=0.15)
    theory = {"forward": sizes[1] / 2 * lengths[6], "central": sizes[2] / 6 * lengths[6] ** 2}
    for name, value in theory.items():
        headlines[f"{name}: error at h = 2⁻⁷ / theory"] = common.near(
            errors[f"{name}, float64"][6] / value, 1, by=0.02
        )
    headlines |= {
        "best h of central differences: float32 / float64": common.within(
            best["central, float32"] / best["central, float64"], 813 / 2, 813 * 2, 2 ** (29 / 3)
        ),
        "best h, forward, central, central float32": (list(best.values()), None),
        "least error / slopes: forward, central, central float32": (
            [errors[name].min() / sizes[0] for name in best],
            None,
        ),
        "complex step: largest error / slopes": common.within(errors["complex"] / sizes[0], high=1e-13),
        "all entries of the gradient, complex step: largest deviation / size": common.within(
            entries[0].max(), high=1e-13
        ),
        "reverse mode: operations of a gradient / of a loss": common.near(
            counts[:, 1] / counts[:, 0], 2 + 10 / 74, by=0.1
        ),
        "forward mode: operations of a slope / of a loss": common.near(
            counts[:, 2] / counts[:, 0], 2 + 10 / 74, by=0.1
        ),
    }
    return run.save(
        figure, headlines, lengths=lengths, errors=errors, parameters=parameters, operations=counts
    )
