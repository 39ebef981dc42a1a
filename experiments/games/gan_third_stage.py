r"""What makes a GAN converge: seven games of one point, and two networks on a ring of Gaussians and on digits.

The Dirac-GAN has one point as its data, one point θ as its generator and a slope ψ as its discriminator. Its rest
point is (0, 0). What moves there is a vector field and no descent:

- without a penalty the flow circles, and steps of any size spiral out; in turn, they stay;
- WGAN-GP does not rest but goes round a cycle;
- R1, consensus optimization, instance noise and looking ahead make it rest, up to a largest step. With the
  eigenvalues λ of the Jacobian at rest, it is the least of $2|\mathrm{Re}\,\lambda|/|\lambda|^2$. Below it the
  nonlinear game comes to rest, above it does not.

For networks there is no rest point to look at. What is measured is the energy distance of generated samples from
samples that were held out, as a multiple of that of as many real ones. R1 keeps it from rising again.

Claim: Penalties, consensus, noise and looking ahead make a GAN of one point rest, up to a largest step that linear
theory gives, and with R1 two networks find all modes of a ring, and better digits.

Figure: First two rows: seven games of one point, in the plane of generator and discriminator from the star: the flow
(line) and the iterates (dots) over the direction of the field (arrows). At the end of the second row: distance from
rest after 2,000 steps against the step, over the largest stable one, for R1 with γ = .3 (solid) and 1.5 (dashed),
consensus with γ = .3 (dash-dotted) and 5 (dotted) and instance noise (yellow); the grey line is 1. Third row:
generated points (coloured) on the ring of real ones (grey), without a penalty and with R1; at the right their energy
distance from held-out samples, over that of real ones, in steps, without a penalty (solid) and with R1 (dotted),
median and range of three. Last row: the same for digits, with generated images.

Measured: Dirac-GAN, radius after 20,000 steps of .98 and 1.02 of the largest stable step, from .05: R1 γ = .3 1e-32,
.26; consensus γ = .3 2e-9, 1.3; γ = 5 0, .37; instance noise σ = 2 2e-15, .14. Ring of eight Gaussians, 8,000 steps,
energy distance over that of real samples, median of three: 34 without, 5.0 with R1; modes found 7, 8. Digits, 16,000
steps: 9.2 (5.5 on the way), 4.5 with R1.

Sources: Mescheder, Nowozin & Geiger (2017, 1705.10461); Mescheder, Geiger & Nowozin (2018, 1801.04406); Gulrajani et
al. (2017, 1704.00028); Metz et al. (2016, 1611.02163).
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

STEP, TIME, EDGE = 0.4, 24.0, 1.5
FRACTIONS = np.linspace(0.5, 1.25, 31)  # of the largest stable step
CLOSE = (0.98, 1.02)
NEAR = 0.05  # the radius where runs begin: large steps rest only from near
RESTS = {
    "R1, γ = .3": ("r1", {"gamma": 0.3}),
    "R1, γ = 1.5": ("r1", {"gamma": 1.5}),
    "consensus, γ = .3": ("consensus", {"gamma": 0.3}),
    "consensus, γ = 5": ("consensus", {"gamma": 5.0}),
    "instance noise, σ = 2": ("instance_noise", {"sigma": 2.0}),
}
SHOWN = {
    "GAN, at once": ("gan", {}),
    "GAN, in turn": ("gan", {}),
    "GAN, looking ahead": ("gan", {}),
    "WGAN-GP, γ = .5": ("wgan_gp", {"gamma": 0.5}),
    "R1, γ = .3": RESTS["R1, γ = .3"],
    "consensus, γ = .3": RESTS["consensus, γ = .3"],
    "instance noise, σ = 1": ("instance_noise", {"sigma": 1.0}),
}
ORIGIN = (0.0, 0.0)
# The weight of R1, the rate of Adam, the dimension of the latent variables, and the hidden units of both networks.
RING = {"gamma": 0.1, "rate": 1e-3, "latent": 4, "hidden": (64, 64)}
DIGITS = {"gamma": 1.0, "rate": 5e-4, "latent": 32, "hidden": (128, 128)}
WITHOUT, WITH = "without a penalty", "with R1"


def point(players):
    """Both players as a point of the plane (2,)."""
    return jnp.stack(players)


def dirac(name):
    """One of the games of a point, the optimizer it is shown with, and its largest stable step."""
    kind, numbers = (SHOWN | RESTS)[name]
    played = jf.problems.dirac_gan(kind, **numbers).objective
    if name == "GAN, looking ahead":
        played = jf.games.extragradient(played, STEP)
    descent = jf.optim.gd(STEP)
    return played, jf.optim.alternating(descent) if name == "GAN, in turn" else descent


def follow(name):
    """The iterates and the flow of a game of one point, from (.7, 0)."""
    (played, optimizer), start = dirac(name), jf.problems.dirac_gan().params
    iterates = jf.iterate(optimizer, played, start, steps=round(TIME / STEP), record=point)
    flow = jf.dynamics.gradient_flow(played)
    return iterates, jf.integrate(flow, start, np.linspace(0, TIME, 201), rtol=1e-8, record=point), played


def radii(name, steps):
    """The largest stable step of a game, and radii after a tenth of the steps and all, by the fraction of it."""
    played = dirac(name)[0]
    largest = jf.curvature.game_stability(played, ORIGIN).simultaneous_step
    start = (jnp.asarray(NEAR), jnp.asarray(0.0))

    @jax.jit
    def ends(size, played):
        run = jf.iterate(jf.optim.gd(size), played, start, steps=steps, every=steps // 10, record=point)
        return jnp.linalg.norm(run.values[jnp.array([1, 10])], axis=-1)

    return largest, np.asarray(jax.vmap(ends, (0, None))(largest * np.append(FRACTIONS, CLOSE), played))


def train(data, settings, steps, every, seeds, count):
    """Samples along training without and with R1, (seeds, records, count, d) by name, and the held-out ones."""
    networks = dict.fromkeys(("generator", "discriminator"), settings["hidden"])
    latent = jax.random.normal(jax.random.key(99), (count, settings["latent"]), jnp.float32)
    optimizer, made = jf.optim.adam(settings["rate"], b1=0.5, b2=0.99), {}
    for name, penalty in ((WITHOUT, {}), (WITH, {"penalty": "r1", "gamma": settings["gamma"]})):
        problem = jf.problems.gan(data, latent=settings["latent"], **networks, **penalty)

        def sample(players, problem=problem):
            return problem.predict(players.generator, latent)

        runs = []
        for seed in common.progress(range(seeds), f"{problem.name}, {name}"):
            key = jax.random.key(seed)
            start = jf.problems.gan(data, latent=settings["latent"], **networks, key=key).params
            start = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), start)
            runs.append(
                jf.iterate(
                    optimizer, problem.objective, start, steps=steps, every=every, key=key, record=sample
                ).values
            )
        made[name] = np.stack(runs)
    return made


def distances(made, real, few):
    """Energy distances (seeds, records) of samples from real ones, as multiples of that of as many real ones."""
    floor = float(jf.comparison.energy_distance(few, real))
    one = lambda x: float(jf.comparison.energy_distance(jnp.asarray(x), real))
    return {name: np.array([[one(x) / floor for x in run] for run in runs]) for name, runs in made.items()}


def on_modes(samples, modes=8, radius=1.5, deviation=0.05):
    """The share of samples within 3 deviations of a centre of the ring, and how many centres these are near."""
    angles = 2 * np.pi * np.arange(modes) / modes
    centres = radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    gaps = np.linalg.norm(samples[:, None] - centres, axis=-1)
    near = gaps.min(1) < 3 * deviation
    return near.mean(), len(np.unique(gaps.argmin(1)[near]))


def draw_game(ax, name, iterates, flow, played):
    """The vector field of a game, its flow and its iterates."""
    ticks = np.linspace(-EDGE, EDGE, 17)
    x, y = np.meshgrid(ticks, ticks)
    u, v = (-np.asarray(part) for part in jax.vmap(played)((jnp.asarray(x.ravel()), jnp.asarray(y.ravel()))))
    length = np.maximum(np.hypot(u, v), 1e-9) ** 0.6  # arrows of slow places can be seen
    ax.quiver(x.ravel(), y.ravel(), u / length, v / length, color="0.75", width=0.005, scale=22)
    ax.plot(*np.asarray(flow.values).T, label="flow", **stroke(0) | {"linestyle": "-", "linewidth": 2.2})
    dots = {"linestyle": "", "marker": "o", "markersize": 3, "color": "black"}
    ax.plot(*np.asarray(iterates.values).T, label=f"iterates, h = {STEP:g}", **dots)
    ax.plot(
        0.7,
        0,
        marker="*",
        markersize=12,
        color=COLOURS[4],
        markeredgecolor="black",
        linestyle="",
        label="start",
    )
    ax.set(title=name, xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), aspect="equal")
    ax.set(xlabel="generator θ", ylabel="discriminator ψ")
    tidy(ax, legend=False)


def draw_steps(ax, ends, steps):
    """Radii after many steps against the size of a step, as a fraction of the largest stable one."""
    for i, (name, (largest, found)) in enumerate(ends.items()):
        ax.plot(FRACTIONS, np.maximum(found[:-2, 0], 1e-12), label=f"{name}: {largest:.3f}", **stroke(i))
    ax.axvline(1, color="0.4", linewidth=1)
    ax.set(title=f"radius after {steps // 10:,} steps", yscale="log", ylim=(1e-12, 30))
    ax.set(xlabel="step / largest stable step", ylabel="distance from rest")
    tidy(ax, legend=False)
    ax.legend(title="largest stable step", fontsize=8, title_fontsize=8, loc="upper left", framealpha=0.9)


def draw_distances(ax, what, found, every):
    """Energy distances along training: the median of the seeds and their range."""
    for i, (name, values) in enumerate(found.items()):
        steps = every * np.arange(values.shape[1])
        ax.fill_between(steps, values.min(0), values.max(0), color=COLOURS[5 * i], alpha=0.2, linewidth=0)
        ax.plot(steps, np.median(values, 0), label=name, **stroke(5 * i))
    ax.set(title=f"{what}: distance from held-out samples", yscale="log", xlabel="steps")
    ax.set(ylabel="energy distance / that of real ones")
    tidy(ax)


def draw_ring(ax, name, samples, data):
    """Samples of a ring over the data."""
    ax.plot(*np.asarray(data[:1000]).T, ".", color="0.8", markersize=3)
    ax.plot(*samples.T, ".", color=COLOURS[5 * (name == WITH)], markersize=3, alpha=0.6)
    ax.set(title=f"ring, {name}", xlim=(-2, 2), ylim=(-2, 2), aspect="equal", xlabel="x", ylabel="y")
    tidy(ax, legend=False)


def draw_digits(ax, title, images):
    """Thirty small images as one."""
    rows = [
        np.hstack([np.pad(one.reshape(8, 8), 1, constant_values=np.nan) for one in row]) for row in images
    ]
    ax.imshow(np.vstack(rows), cmap="gray", vmin=-1, vmax=2)
    ax.set(title=title, xticks=[], yticks=[])


def main(arguments=None):
    run = common.start("gan_third_stage", __doc__, arguments)
    steps = 2000 if run.quick else 20_000
    rests, shown = (dict(list(games.items())[: 2 if run.quick else None]) for games in (RESTS, SHOWN))
    (ring_steps, ring_every), (digit_steps, digit_every), seeds, count = (
        ((400, 200), (100, 50), 1, 300) if run.quick else ((8_000, 500), (16_000, 1000), 3, 1000)
    )
    thin = {"hidden": (64,)} if run.quick else {}
    figure = Figure(figsize=(16, 16), layout="constrained")
    panels = figure.subplot_mosaic("abcd;efgs;mnrr;xyzz")
    headlines = {}
    for letter, name in zip("abcdefg", shown, strict=False):
        draw_game(panels[letter], name, *follow(name))
    figure.legend(
        *panels["a"].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
    )
    ends = {name: radii(name, steps) for name in common.progress(rests, "games")}
    draw_steps(panels["s"], ends, steps)
    for name, (largest, found) in ends.items():
        about = f"{name}: radius after {steps:,} steps of .98 and 1.02 of {largest:.5g}, from {NEAR}"
        headlines[about] = (found[-2:, 1].tolist(), None)
        below, above = np.nan_to_num(found[-2:, 1], nan=np.inf)
        said = f"{name}: distance from rest over that of the start, at"
        headlines[f"{said} .98 of the largest stable step"] = common.within(
            below / NEAR, high=0.01, expected=0
        )
        headlines[f"{said} 1.02 of it"] = common.within(above / NEAR, low=1)

    ring = jf.problems.ring_of_gaussians()
    made = train(ring, RING | thin, ring_steps, ring_every, seeds, count)
    real, few = (jf.problems.ring_of_gaussians(size=count, key=jax.random.key(i)) for i in (5, 6))
    on_ring = distances(made, real, few)
    for letter, (name, samples) in zip("mn", made.items(), strict=True):
        draw_ring(panels[letter], name, samples[0, -1], ring)
        share, covered = np.median([on_modes(run[-1]) for run in samples], 0)
        headlines[f"ring, {name}: share of samples on a mode, modes of 8"] = ([share, covered], None)
        if name == WITH and not run.quick:
            headlines[f"ring, {name}: modes found"] = common.near(covered, 8)
    draw_distances(panels["r"], "ring", on_ring, ring_every)

    problem = jf.problems.gan("digits")
    real, few = problem.test["x"], problem.objective.data[0][:count]
    made = train(problem.objective.data[0], DIGITS | thin, digit_steps, digit_every, seeds, count)
    on_digits = distances(made, real, few)
    for letter, (name, samples) in zip("xy", made.items(), strict=True):
        draw_digits(panels[letter], f"digits, {name}", samples[0, -1, :30].reshape(5, 6, 64))
    draw_distances(panels["z"], "digits", on_digits, digit_every)
    for what, found in (("ring", on_ring), ("digits", on_digits)):
        if not run.quick:
            last = {name: np.median(values[:, -1]) for name, values in found.items()}
            about = f"{what}: energy distance at the end with R1 / without a penalty"
            headlines[about] = common.within(last[WITH] / last[WITHOUT], high=0.8)
        for name, values in found.items():
            middle = np.median(values, 0)
            headlines[
                f"{what}, {name}: energy distance / that of real ones, least on the way and at the end"
            ] = (
                [middle.min(), middle[-1]],
                None,
            )
    stable = {name: float(largest) for name, (largest, _) in ends.items()}
    return run.save(figure, headlines, stable_steps=stable, ring=on_ring, digits=on_digits)
