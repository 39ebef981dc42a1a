"""The optimizers once more: plain NumPy recursions in float64, against which the library's are compared.

Each is written from the paper it names and shares nothing with the library, so that an error would have to be
made twice, in the same way, to go unnoticed. `gradient` maps a vector to a vector; the result holds all the
iterates, the start included, with shape (steps + 1, dim). A learning rate is a number or a function of the
step k = 0, 1, …; so are every `multiplier` and the `beta` of `momentum`. Bias corrections count t = k + 1.
"""

import functools
from fractions import Fraction

import numpy as np


def at(value, k):
    """The value of a hyperparameter at step k: schedules are called, numbers are themselves."""
    return value(k) if callable(value) else value


def iterates(recursion):
    """Makes a generator of the iterates after the start into a function that returns them all as an array."""

    @functools.wraps(recursion)
    def run(gradient, x, steps, *args, **hyperparameters):
        x = np.asarray(x, np.float64)
        return np.stack([x, *recursion(gradient, x, steps, *args, **hyperparameters)])

    return run


@iterates
def gd(gradient, x, steps, learning_rate):
    for k in range(steps):
        x = x - at(learning_rate, k) * gradient(x)
        yield x


def sign(gradient, x, steps, learning_rate):
    """A coordinate whose gradient is exactly 0 stays."""
    return gd(lambda x: np.sign(gradient(x)), x, steps, learning_rate)


def l2_gd(gradient, x, steps, learning_rate, strength):
    """Descent on the loss plus strength/2 |x|²."""
    return gd(lambda x: gradient(x) + strength * x, x, steps, learning_rate)


def newton(gradient, x, steps, learning_rate=1.0, damping=0.0, *, hessian):
    damped = damping * np.eye(len(x))
    return gd(lambda x: np.linalg.solve(hessian(x) + damped, gradient(x)), x, steps, learning_rate)


@iterates
def momentum(gradient, x, steps, learning_rate, beta=0.9, ema=False, debias=False):
    """Polyak 1964. Without ema, debias has no meaning and is ignored."""
    v, product = np.zeros_like(x), 1.0
    for k in range(steps):
        b = at(beta, k)
        product *= b
        v = b * v + ((1 - b) if ema else 1.0) * gradient(x)
        x = x - at(learning_rate, k) * (v / (1 - product) if ema and debias else v)
        yield x


@iterates
def nesterov(gradient, x, steps, learning_rate, beta=0.9, lookahead=False):
    """Nesterov 1983: the gradient at the point ahead, or the form whose iterates are the points ahead."""
    v = np.zeros_like(x)
    for k in range(steps):
        lr = at(learning_rate, k)
        g = gradient(x - lr * beta * v) if lookahead else gradient(x)
        v = beta * v + g
        x = x - lr * (v if lookahead else g + beta * v)
        yield x


@iterates
def sgdw(gradient, x, steps, learning_rate, beta=0.9, weight_decay=1e-4, multiplier=None):
    """Loshchilov & Hutter 2019. With a multiplier, the paper's form: the rate is inside the momentum."""
    v = np.zeros_like(x)
    for k in range(steps):
        lr, eta = at(learning_rate, k), at(multiplier, k)
        if eta is None:
            v = beta * v + gradient(x)
            x = x - lr * (v + weight_decay * x)
        else:
            v = beta * v + eta * lr * gradient(x)
            x = x - (v + eta * weight_decay * x)
        yield x


@iterates
def lookahead_momentum(gradient, x, steps, learning_rate, beta=0.9, steps_between=5, alpha=0.5, reset=False):
    """Zhang et al. 2019 around the heavy ball; the iterates are the fast weights, after synchronization."""
    v, slow = np.zeros_like(x), x
    for k in range(steps):
        v = beta * v + gradient(x)
        x = x - at(learning_rate, k) * v
        if (k + 1) % steps_between == 0:
            x = slow = slow + alpha * (x - slow)
            v = np.zeros_like(x) if reset else v
        yield x


@iterates
def adagrad(gradient, x, steps, learning_rate, eps=1e-10, initial_accumulator=0.0, eps_in_sqrt=False):
    """Duchi, Hazan & Singer 2011."""
    r = np.full_like(x, initial_accumulator)
    for k in range(steps):
        g = gradient(x)
        r = r + g**2
        x = x - at(learning_rate, k) * g / (np.sqrt(r + eps) if eps_in_sqrt else np.sqrt(r) + eps)
        yield x


@iterates
def rmsprop(gradient, x, steps, learning_rate, decay=0.9, eps=1e-8, eps_in_sqrt=False):
    """Tieleman & Hinton 2012."""
    v = np.zeros_like(x)
    for k in range(steps):
        g = gradient(x)
        v = decay * v + (1 - decay) * g**2
        x = x - at(learning_rate, k) * g / (np.sqrt(v + eps) if eps_in_sqrt else np.sqrt(v) + eps)
        yield x


@iterates
def scalar_rmsprop(gradient, x, steps, learning_rate, decay=0.9, eps=1e-8):
    """Cohen et al. 2024: one v, of the squared norm."""
    v = 0.0
    for k in range(steps):
        g = gradient(x)
        v = decay * v + (1 - decay) * (g @ g)
        x = x - at(learning_rate, k) * g / (np.sqrt(v) + eps)
        yield x


def average(m, v, g, b1, b2):
    """The moving averages of g and g², which all begin at 0."""
    return b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2


def corrected(m, v, t, b1, b2, eps):
    """m̂ / (√v̂ + ε)."""
    return m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


@iterates
def adamw(
    gradient, x, steps, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-2, multiplier=None
):  # fmt: skip
    """Loshchilov & Hutter 2019. With a multiplier, the paper's form: only it scales the decay."""
    m = v = np.zeros_like(x)
    for k in range(steps):
        lr, eta = at(learning_rate, k), at(multiplier, k)
        m, v = average(m, v, gradient(x), b1, b2)
        step = lr * corrected(m, v, k + 1, b1, b2, eps)
        x = x - (step + lr * weight_decay * x if eta is None else eta * (step + weight_decay * x))
        yield x


def adam(gradient, x, steps, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8):
    """Kingma & Ba 2015."""
    return adamw(gradient, x, steps, learning_rate, b1, b2, eps, weight_decay=0.0)


@iterates
def amsgrad(gradient, x, steps, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, bias_correction=True):
    """Reddi, Kale & Kumar 2018: the largest v so far, of the uncorrected ones, in either form."""
    m = v = largest = np.zeros_like(x)
    for k in range(steps):
        m, v = average(m, v, gradient(x), b1, b2)
        largest = np.maximum(largest, v)
        step = corrected(m, largest, k + 1, b1, b2, eps) if bias_correction else m / (np.sqrt(largest) + eps)
        x = x - at(learning_rate, k) * step
        yield x


@iterates
def adabound(
    gradient, x, steps, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8,
    final_learning_rate=0.1, gamma=1e-3, amsbound=False, paper=False,
):  # fmt: skip
    """Luo et al. 2019: their code; paper: no bias corrections, no ε (Algorithm 2 under `inverse_sqrt`)."""
    m = v = largest = np.zeros_like(x)
    for k in range(steps):
        t, lr = k + 1, at(learning_rate, k)
        m, v = average(m, v, gradient(x), b1, b2)
        largest = np.maximum(largest, v) if amsbound else v
        final = final_learning_rate * (lr / at(learning_rate, 0))
        low, high = final * (1 - 1 / (gamma * t + 1)), final * (1 + 1 / (gamma * t))
        c = 1.0 if paper else np.sqrt(1 - b2**t) / (1 - b1**t)
        with np.errstate(divide="ignore"):  # a gradient that has always been 0: its rate is the upper bound
            rate = np.clip(lr * c / (np.sqrt(largest) + (0.0 if paper else eps)), low, high)
        x = x - rate * m
        yield x


@iterates
def radam(gradient, x, steps, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, threshold=4.0):
    """Liu et al. 2020, with ε on the corrected root as in Adam; the threshold is at least 4."""
    m, v, limit = np.zeros_like(x), np.zeros_like(x), 2 / (1 - b2) - 1
    for k in range(steps):
        t, (m, v) = k + 1, average(m, v, gradient(x), b1, b2)
        rho = limit - 2 * t * b2**t / (1 - b2**t)
        step = m / (1 - b1**t)
        if rho > threshold:
            r = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            step = r * corrected(m, v, t, b1, b2, eps)
        x = x - at(learning_rate, k) * step
        yield x


@iterates
def nadam(gradient, x, steps, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, momentum_decay=None):
    """Dozat 2016, with a constant β₁, or with the coefficients μ_t = β₁(1 - .96^(ψt)/2), ψ the decay."""
    mu = lambda t: b1 if momentum_decay is None else b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    m, v, product = np.zeros_like(x), np.zeros_like(x), 1.0
    for k in range(steps):
        t, g = k + 1, gradient(x)
        m, v = average(m, v, g, b1, b2)
        now, following = mu(t), mu(t + 1)
        product *= now
        numerator = (1 - now) * g / (1 - product) + following * m / (1 - product * following)
        x = x - at(learning_rate, k) * numerator / (np.sqrt(v / (1 - b2**t)) + eps)
        yield x


def swats_with_switch(
    gradient, x, steps, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-9,
    tolerance=1e-9, relative=False, reference="start",
):  # fmt: skip
    """Keskar & Socher 2017, one decision for the whole vector: (iterates, k of the last Adam step or None).

    The step at which the criterion is met is Adam's; the next is the first of SGD. The paper's Λ is constant:
    under a schedule it is multiplied by lr_k/lr_0 (reference="start") or lr_k/lr_switch (reference="switch").
    """
    path = [np.asarray(x, np.float64)]
    m = v = np.zeros_like(path[0])
    lam, scale, switch = 0.0, None, None
    for k in range(steps):
        t, lr, g = k + 1, at(learning_rate, k), gradient(path[-1])
        if switch is not None:
            v = b1 * v + g
            ratio = lr / at(learning_rate, 0 if reference == "start" else switch)
            path.append(path[-1] - (1 - b1) * scale * ratio * v)
            continue
        m, v = average(m, v, g, b1, b2)
        p = -lr * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
        path.append(path[-1] + p)
        if p @ g != 0:
            gamma = (p @ p) / -(p @ g)
            lam = b2 * lam + (1 - b2) * gamma
            scale = lam / (1 - b2**t)
            if t > 1 and abs(scale - gamma) < tolerance * (gamma if relative else 1.0) and scale > 0:
                switch, v = k, np.zeros_like(v)
    return np.stack(path), switch


def swats(gradient, x, steps, *args, **hyperparameters):
    return swats_with_switch(gradient, x, steps, *args, **hyperparameters)[0]


def constant(value):
    return lambda k: value


def inverse_sqrt(eta):
    return lambda k: eta / np.sqrt(k + 1)


def warmup(peak, steps, start=0.0):
    return lambda k: start + (peak - start) * k / steps if k < steps else peak


def triangular(low, high, half_period):
    """Smith 2017: up for half_period steps, down for as many, and again."""
    return lambda k: low + (high - low) * (1 - abs(k % (2 * half_period) / half_period - 1))


def cosine(start, end, fraction):
    return end + (start - end) * (1 + np.cos(np.pi * fraction)) / 2


def sgdr(low, high, period, growth=1):
    """Loshchilov & Hutter 2017, cycle by cycle in exact fractions: k at a cycle's end begins the next."""
    growth = Fraction(growth).limit_denominator(10**9)

    def schedule(k):
        k, start, length = Fraction(float(k)), Fraction(0), Fraction(period).limit_denominator(10**9)
        while k >= start + length:
            start, length = start + length, length * growth
        return cosine(high, low, float((k - start) / length))

    return schedule


def one_cycle(peak, steps, start_factor=25.0, final_factor=1e4, warm_fraction=0.3):
    """Smith & Topin 2019 as in PyTorch: the peak at k = warm_fraction steps - 1, the end at k = steps - 1."""
    first, turn, end = peak / start_factor, warm_fraction * steps - 1, steps - 1
    up = lambda k: cosine(first, peak, k / turn)
    down = lambda k: cosine(peak, first / final_factor, min(1.0, (k - turn) / (end - turn)))
    return lambda k: up(k) if k <= turn else down(k)


def one_cycle_momentum(high=0.95, low=0.85, *, steps, warm_fraction=0.3):
    """The momentum that goes with it: lowest where the learning rate is highest."""
    height = one_cycle(1.0, steps, np.inf, 1.0, warm_fraction)  # from 0 to 1 and back
    return lambda k: high + (low - high) * height(k)
