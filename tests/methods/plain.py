"""The methods once more, in plain Python: a loop over the pairs each, from the papers and not from the package.

Every function takes d (rotary dimension), b (base), L (window), s (factor), then the parameters, and returns the
frequencies. Nothing here is fast, general or checked.
"""

from __future__ import annotations

import math


def thetas(d, b):
    return [b ** (-2 * i / d) for i in range(d // 2)]


def turns(d, b, L):
    return [L * theta / (2 * math.pi) for theta in thetas(d, b)]


def none(d, b, L, s):
    return thetas(d, b)


def linear(d, b, L, s):
    return [theta / s for theta in thetas(d, b)]


def ntk(d, b, L, s):
    return thetas(d, b * s ** (d / (d - 2)))


def ntk_step(d, b, L, s, step):
    return [theta / step**i for i, theta in enumerate(thetas(d, b))]


def ntk_d(d, b, L, s):
    return [theta * s ** (-2 * i / d) for i, theta in enumerate(thetas(d, b))]


def ntk_power(d, b, L, s, power=None):
    power = 1 + math.log(s) / math.log(b) if power is None else power
    return [math.exp(-(2 * i / d) * power * math.log(b)) for i in range(d // 2)]


def ntk_mixed(d, b, L, s, share=0.5):
    by_ntk = thetas(d, b * (s**share) ** (d / (d - 2)))
    return [theta / s ** (1 - share) for theta in by_ntk]


def ntk_su(d, b, L, s, power=0.625):
    a = math.log(s) / (d / 2) ** power
    return [theta * math.exp(-a * (i + 1) ** power) for i, theta in enumerate(thetas(d, b))]


def abf(d, b, L, s, pair):
    """Solved by bisection instead of in closed form."""
    low, high = math.log(b), math.log(b) + math.log(s) * d
    for _ in range(200):
        middle = (low + high) / 2
        slowed = math.exp((middle - math.log(b)) * 2 * pair / d)
        low, high = (middle, high) if slowed < s else (low, middle)
    return thetas(d, math.exp(low))


def by_parts(d, b, L, s, alpha=1, beta=32):
    made = []
    for theta, r in zip(thetas(d, b), turns(d, b, L)):
        gamma = 0 if r < alpha else 1 if r > beta else (r - alpha) / (beta - alpha)
        made.append((1 - gamma) * theta / s + gamma * theta)
    return made


def yarn(d, b, L, s, beta_fast=32, beta_slow=1, truncate=True):
    def at(rotations):
        return d * math.log(L / (rotations * 2 * math.pi)) / (2 * math.log(b))

    low, high = at(beta_fast), at(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    if low == high:
        high += 0.001
    made = []
    for i, theta in enumerate(thetas(d, b)):
        ramp = (i - low) / (high - low)
        ramp = 0 if ramp < 0 else 1 if ramp > 1 else ramp
        made.append(theta / s * ramp + theta * (1 - ramp))
    return made


def llama3(d, b, L, s, low=1, high=4):
    made = []
    for theta in thetas(d, b):
        wavelength = 2 * math.pi / theta
        if wavelength < L / high:
            made.append(theta)
        elif wavelength > L / low:
            made.append(theta / s)
        else:
            smooth = (L / wavelength - low) / (high - low)
            made.append((1 - smooth) * theta / s + smooth * theta)
    return made


def band(d, b, L, fast, slow):
    r = turns(d, b, L)
    last = max([i for i, value in enumerate(r) if value > fast], default=-1)
    first = min([i for i, value in enumerate(r) if value < slow], default=len(r))
    n = max(first - last, 1)
    return [min(max(i - last, 0), n) for i in range(len(r))], n


def mrrope_uni(d, b, L, s, fast=32, slow=1):
    q, n = band(d, b, L, fast, slow)
    return [theta * s ** -(place / n) for theta, place in zip(thetas(d, b), q)]


def mrrope_pro(d, b, L, s, fast=32, slow=1):
    q, n = band(d, b, L, fast, slow)
    return [theta * s ** -(place * (place + 1) / (n * (n + 1))) for theta, place in zip(thetas(d, b), q)]


def tailspline(d, b, L, s, fast=32, slow=1):
    """Its profile is the sum of p(n - p + 1) weights: p = 1..q of (n+1-p)(n+p), over the same sum to n."""
    q, n = band(d, b, L, fast, slow)

    def weight(upto):
        return sum((n + 1) * n + p - p * p for p in range(1, upto + 1))

    return [theta * s ** -(weight(place) / weight(n)) for theta, place in zip(thetas(d, b), q)]


def walk(d, b, L, s, fast=6, slow=0.65, power=1.2):
    made = []
    for theta, r in zip(thetas(d, b), turns(d, b, L)):
        if r >= fast:
            m = 0
        elif r <= slow:
            m = 1
        else:
            m = (math.log(fast / r) / math.log(fast / slow)) ** power
        made.append(theta / s**m)
    return made


def cope(d, b, L, s, share=0.75):
    made, slow = thetas(d, b), sum(r < 1 for r in turns(d, b, L))
    count = round(share * slow)
    for step in range(count):
        phase = math.pi if count == 1 else math.pi * step / (count - 1)
        made[len(made) - count + step] *= (1 + math.cos(phase)) / 2
    if count:
        made[-1] = 0.0
    return made


def p_rope(d, b, L, s, share=0.25):
    made = thetas(d, b)
    stopped = round(share * len(made))
    return made[: len(made) - stopped] + [0.0] * stopped


def drope(d, b, L, s):
    return [0.0] * (d // 2)


def proportional(d, b, L, s, share=0.25):
    kept = int(share * d // 2)
    return [theta / s if i < kept else 0.0 for i, theta in enumerate(thetas(d, b))]


def longrope(d, b, L, s, factors):
    return [theta / factor for theta, factor in zip(thetas(d, b), factors)]


def resonance(d, b, L, s):
    return [2 * math.pi / round(2 * math.pi / theta) for theta in yarn(d, b, L, s)]


def yarn_attention(s, m=1.0):
    return 1 + 0.1 * m * math.log(s)


def longrope_attention(L, s):
    return math.sqrt(1 + math.log(s) / math.log(L))
