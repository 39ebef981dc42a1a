"""What falls along the Fokker–Planck equation: relative entropy, and not the loss less temperature times entropy.

The law of dx = b dt + √(2A) dW, of any drift b and noise A, comes to rest at p_ss. With Φ = −T log p_ss,

- KL(p‖p_ss), and with it F = ∫Φp + T∫p log p = T·KL + a constant, never rises. Measured on random equations of two
  coordinates: the drift is a random matrix, waves and −x³, and circulates; the noise is a matrix whose size and
  direction change with x; the start is a random number in each cell. The chain of jumps that is solved has this
  property itself, so that all is exact but for rounding.
- E[L] − T·entropy, which is F where A = T·I, may rise where b = −∇L and the noise A = TD is anisotropic: p_ss is then
  not exp(−L/T). On L = ½ xᵀHx and from a Gaussian it is ½ tr HS − ½ T log det(2πe S) with S of Ṡ = −HS − SH + 2TD. A
  random search over H = diag(1, h), the ratio and the angle of the noise's two variances (of mean 1) and narrow round
  starts, of variance T/30 to T/3, finds where it rises most; there the equation is solved on a grid as well.

On the way it falls below what it is at rest, near Gibbs' covariance T H⁻¹, its minimum, and has to rise again.

Claim: Along the Fokker–Planck equation KL to the law at rest falls, whatever the drift and the noise; E[L] −
T·entropy may rise where the noise is anisotropic.

Figure: Top left: KL divergence from the law at rest, over its start, in time for 200 random equations (grey; three of
them in colour): all fall. Top right: the problem with the largest rise: excess of F (solid) and of E[L] − T·entropy
(dashed, with triangles in the intervals in which it rises) over their values at rest (dotted). Bottom left: the
largest rise of E[L] − T·entropy, over T, by ratio and angle of the noise at the curvature found; the star is the
problem found. Bottom right: its density where E[L] − T·entropy is lowest (blue), two standard deviations of exp(−L/T)
(dashed), which it has come near, and of the law at rest (solid).

Measured: 200 random equations of two coordinates: largest increase of KL 8e-16, of F 3e-16. Random search over 50,000
Gaussians on ½(x₁² + hx₂²), noise of ratio 1 to 10: E[L] − T·entropy rises for 50 %, for isotropic noise by 4e-16 at
most. Most at h = 4.05, ratio 9.8, angle 3°: down to its least at t = .092, then up by .2216 = .44 T (on 128² cells
.2222), past its start by .144; F falls all along.

Sources: Jordan, Kinderlehrer & Otto (1998); Chaudhari & Soatto (2018, 1710.11029); for chains Kullback & Leibler
(1951) and Cover & Thomas (2006), 4.4.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import CLOCK, COLOURS, stroke, tidy

TEMPERATURE = 0.5
TIMES = np.concatenate([[0.0], np.geomspace(0.01, 10.0, 60)])


@jf.dynamics.traceable
def random_equation(matrix, waves, turn, sizes):
    """Any drift, and noise whose direction and two variances change with x.

    The variances differ by a factor up to 5.7. Below 3 + √8 every cell has jumps along both axes, so that the law at
    rest is positive in the corners too.
    """

    def root(x):
        angle = turn[0] + jnp.sin(turn[1:] @ x)
        axes = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
        return axes * jnp.exp(0.23 * jnp.sin(sizes[:, 0] + sizes[:, 1:] @ x))[None] * jnp.array([[1.2, 0.8]])

    return jf.dynamics.Field(
        drift=lambda t, x: matrix @ x + waves @ jnp.sin(2 * x) - x**3,
        diffusion=lambda t, x, xi: root(x) @ xi,
        brownian=lambda x: jax.ShapeDtypeStruct((2,), x.dtype),
    )


@jf.dynamics.traceable
def linear_equation(hessian, root):
    """dx = −Hx dt + R dW, RRᵀ = 2TD."""
    return jf.dynamics.Field(
        drift=lambda t, x: -hessian @ x,
        diffusion=lambda t, x, xi: root @ xi,
        brownian=lambda x: jax.ShapeDtypeStruct((2,), x.dtype),
    )


def random_paths(number, cells, key):
    """KL and F along `number` random equations on cells² cells, (number, T) each."""
    grid = jf.density.Grid((-1.5, -1.5), (1.5, 1.5), (cells, cells))

    def solve(key):
        keys = jax.random.split(key, 5)
        normal = lambda i, *shape: jax.random.normal(keys[i], shape)
        dynamics = random_equation(normal(0, 2, 2), normal(1, 2, 2), 2 * normal(2, 3), 2 * normal(3, 2, 3))
        equation = jf.density.fokker_planck(dynamics, grid)
        start = jax.random.exponential(keys[4], grid.shape)
        path = jf.integrate(equation, start / grid.mass(start), TIMES)
        return path.state.chain, path.values

    chains, paths = jax.jit(jax.vmap(solve))(jax.random.split(key, number))
    lanes = [jax.tree.map(lambda leaf, i=i: leaf[i], chains) for i in range(number)]
    rest = jnp.stack([jf.density.stationary(lane) for lane in common.progress(lanes, "laws at rest")])

    def descend(path, rest):
        well = jf.density.potential(rest, TEMPERATURE, grid)
        energy = jax.vmap(lambda p: jf.density.free_energy(p, well, TEMPERATURE, grid))
        return jax.vmap(lambda p: jf.density.kl(p, rest, grid))(path), energy(path)

    return map(np.asarray, jax.jit(jax.vmap(descend))(paths, rest))


def noise_of(ratio, angle):
    """D (…, 2, 2): variances of mean 1 and of this ratio, the larger one at an angle to the first axis."""
    large, small = 2 * ratio / (1 + ratio), 2 / (1 + ratio)
    c, s = np.cos(angle), np.sin(angle)
    rows = [large * c**2 + small * s**2, (large - small) * c * s, large * s**2 + small * c**2]
    return np.stack([rows[0], rows[1], rows[1], rows[2]], -1).reshape(*np.shape(rows[0]), 2, 2)


def wrong_energy(curvature, noise, start, times):
    """E[L] − T·entropy at the times, shape (…, T), and the covariances, of Gaussians of the variance `start`."""
    h = np.stack([np.ones_like(curvature), curvature], -1)
    sums = h[..., :, None] + h[..., None, :]
    rest = 2 * TEMPERATURE * noise / sums
    left = np.exp(-sums[..., None, :, :] * times[:, None, None])
    first = np.asarray(start)[..., None, None] * np.eye(2)
    s = rest[..., None, :, :] + left * (first - rest)[..., None, :, :]
    loss = 0.5 * np.einsum("...i,...tii->...t", h, s)
    return loss - 0.5 * TEMPERATURE * np.log(np.linalg.det(2 * np.pi * np.e * s)), s


def rise(values):
    """The largest rise from any time to a later one, over the last axis."""
    return (values - np.minimum.accumulate(values, -1)).max(-1)


def search(number):
    """The problem in which E[L] − T·entropy rises most, the share in which it rises, and that of round noise."""
    u = np.random.default_rng(0).uniform(size=(4, number))
    curvature, ratio = 10 ** u[0], 10 ** u[1]
    angle, start = 0.5 * np.pi * u[2], TEMPERATURE * 10 ** (u[3] - 1.5)
    rises = rise(wrong_energy(curvature, noise_of(ratio, angle), start, TIMES)[0])
    flat = rise(wrong_energy(curvature, noise_of(np.ones(number), angle), start, TIMES)[0])
    names = dict(zip(("h", "ratio", "angle", "start"), (curvature, ratio, angle, start), strict=True))
    return {k: float(v[rises.argmax()]) for k, v in names.items()}, np.mean(rises > 1e-9), flat.max()


def on_grid(found, cells):
    """The problem found, solved on cells² cells: its grid, its run, F, and E[L] − T·entropy at every time."""
    h, noise = np.array([1.0, found["h"]]), noise_of(found["ratio"], found["angle"])
    rest = TEMPERATURE * np.diag(noise) / h
    reach = 6 * np.sqrt(np.maximum(rest, found["start"]))
    grid = jf.density.Grid(-reach, reach, (cells, cells))
    root = np.linalg.cholesky(2 * TEMPERATURE * noise)
    equation = jf.density.fokker_planck(linear_equation(jnp.diag(h), jnp.asarray(root)), grid)
    path = jf.integrate(equation, jf.density.gaussian(grid, 0.0, found["start"]), TIMES)
    at_rest = jf.density.stationary(jf.density.chain(equation))
    well = jf.density.potential(at_rest, TEMPERATURE, grid)
    loss = 0.5 * grid.points**2 @ h
    energy = lambda p, well: jf.density.free_energy(p, well, TEMPERATURE, grid)
    both = jax.vmap(jax.vmap(energy, (0, None)), (None, 0))(path.values, jnp.stack([well, loss]))
    at_end = jax.vmap(energy, (None, 0))(at_rest, jnp.stack([well, loss]))
    return grid, path, np.asarray(both - at_end[:, None])


def draw_random(ax, divergence):
    """KL along every random equation, some of them in colour."""
    ax.semilogy(TIMES, (divergence / divergence[:, :1]).T, color="0.75", linewidth=0.5)
    for i, line in enumerate((0, 1, 5)):
        ax.semilogy(TIMES, divergence[i] / divergence[i, 0], **stroke(line))
    title = f"{len(divergence)} random equations (three of them bold): none rises"
    ax.set(title=title, xlabel=CLOCK, ylabel="KL(p‖p at rest) / its start", ylim=(1e-10, 1.5))
    tidy(ax)


def draw_where(ax, found):
    """How far E[L] − T·entropy rises, by the noise."""
    ratio, angle = np.meshgrid(np.geomspace(1, 30, 60), np.linspace(0, 0.5 * np.pi, 60))
    rises = rise(
        wrong_energy(np.full(ratio.shape, found["h"]), noise_of(ratio, angle), found["start"], TIMES)[0]
    )
    filled = ax.contourf(ratio, np.degrees(angle), rises / TEMPERATURE, levels=10, cmap="Blues")
    ax.figure.colorbar(filled, ax=ax, label="largest rise of E[L] − T·entropy / T")
    star = {"marker": "*", "markersize": 14, "linestyle": "", "color": COLOURS[1], "clip_on": False}
    ax.plot(found["ratio"], np.degrees(found["angle"]), label="the problem found", **star)
    ax.set(
        title=f"where it rises (h = {found['h']:.2g}); nowhere at ratio 1",
        xscale="log",
        xlabel="ratio of the noise's variances",
        ylabel="angle of its larger one, degrees",
    )
    ax.set_xticks([1, 3, 10, 30], ["1", "3", "10", "30"])
    ax.legend(loc="upper left", fontsize="small")


def draw_density(ax, grid, path, lowest, ellipses):
    """The density where E[L] − T·entropy is lowest, and two laws by their ellipses of two standard deviations."""
    jf.plot.density(path.values[lowest], grid, ax)
    circle = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(circle), np.sin(circle)])
    for (name, covariance), colour, line in zip(ellipses.items(), (1, 0), ("--", "-"), strict=True):
        style = {"color": COLOURS[colour], "linestyle": line, "linewidth": 1.7}
        ax.plot(*(2 * np.linalg.cholesky(covariance) @ circle), label=name, **style)
    reach = 2.6 * np.sqrt(np.max([np.diag(s) for s in ellipses.values()], 0))
    ax.set(title=f"p at t = {path.times[lowest]:.2g}, where it is lowest", xlim=(-reach[0], reach[0]))
    ax.set_ylim(-reach[1], reach[1])
    ax.legend(loc="upper right", fontsize="small", framealpha=0.9, edgecolor="none")


def main(arguments=None):
    run = common.start("free_energy", __doc__, arguments)
    divergence, energy = random_paths(*((24, 8) if run.quick else (200, 12)), jax.random.key(0))
    found, share, flat = search(2000 if run.quick else 50_000)
    noise = noise_of(found["ratio"], found["angle"])
    exact, covariances = wrong_energy(found["h"], noise, found["start"], TIMES)
    grid, path, (right, wrong) = on_grid(found, 40 if run.quick else 128)
    lowest = int(wrong.argmin())

    figure = Figure(figsize=(11.5, 7.8), layout="constrained")
    axes = figure.subplots(2, 2)
    draw_random(axes[0, 0], divergence)
    named = {"F = ∫Φp + T∫p log p": right, "E[L] − T·entropy": wrong}
    jf.plot.free_energy(TIMES, named, axes[0, 1], rest=0.0)
    said = f"h = {found['h']:.2g}, noise of ratio {found['ratio']:.2g}: the loss is the wrong energy"
    axes[0, 1].set(title=said, xlim=(-0.02, 2), ylabel="excess over its value at rest")
    draw_where(axes[1, 0], found)
    gibbs = TEMPERATURE * np.diag([1, 1 / found["h"]])
    draw_density(axes[1, 1], grid, path, lowest, {"exp(−L/T), 2 SD": gibbs, "at rest, 2 SD": covariances[-1]})

    identity = np.ptp(energy - TEMPERATURE * divergence, 1).max()
    headlines = {
        "random equations: largest increase of KL": common.within(
            np.diff(divergence).max(), high=1e-12, expected=0.0
        ),
        "random equations: largest increase of F": common.within(
            np.diff(energy).max(), high=1e-12, expected=0.0
        ),
        "random equations: largest change of F − T·KL": common.within(identity, high=1e-12, expected=0.0),
        "isotropic noise: largest rise of E[L] − T·entropy": common.within(flat, high=1e-12, expected=0.0),
        "noise of ratio 1 to 10: share of problems in which E[L] − T·entropy rises": (share, None),
        "the problem found: h, ratio, angle, variance at the start": ([*found.values()], None),
        "there: largest increase of F on the grid": common.within(
            np.diff(right).max(), high=1e-12, expected=0.0
        ),
        "there: E[L] − T·entropy rises by, on the grid and by the moments": common.near(
            rise(wrong), rise(exact), relative=0.05
        ),
        "there: it is lowest at t = , on the grid and by the moments": (
            TIMES[lowest],
            TIMES[exact.argmin()],
        ),
        "there: from start to end it changes by, on the grid and by the moments": common.near(
            wrong[-1] - wrong[0], exact[-1] - exact[0], relative=0.05
        ),
        "there: largest deviation of its curve from the moments'": (
            np.abs(wrong - wrong[0] - exact + exact[0]).max(),
            0.0,
        ),
    }
    return run.save(
        figure,
        headlines,
        times=TIMES,
        divergence=divergence,
        right=right,
        wrong=wrong,
        exact=exact,
        found=found,
    )
