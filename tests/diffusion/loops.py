"""Samplers as their papers print them: plain NumPy loops in the papers' notation.

Each takes the denoiser D(x, ell), the log-SNRs ell of its timesteps, noisiest first, x
at the first one and, if it is stochastic, the noise z[i] of step i; each ends with D at
the last timestep, as the package does. Independent of the package, float64.
"""

import numpy as np


def alpha(ell):
    return 1 / np.sqrt(1 + np.exp(-ell))


def sigma(ell):
    return 1 / np.sqrt(1 + np.exp(ell))


def score(D, x, ell):
    """Tweedie's formula: (alpha D - x) / sigma^2."""
    return (alpha(ell) * D(x, ell) - x) / sigma(ell) ** 2


def posterior_step(x_0, x, l_t, l_s, z, large=False):
    """Ho et al. 2020, equation 7, with beta that of the stride from s to t."""
    bar_t, bar_s = alpha(l_t) ** 2, alpha(l_s) ** 2
    beta = 1 - bar_t / bar_s
    mean = np.sqrt(bar_s) * beta / (1 - bar_t) * x_0
    mean += np.sqrt(1 - beta) * (1 - bar_s) / (1 - bar_t) * x
    return mean + np.sqrt(beta * (1 if large else (1 - bar_s) / (1 - bar_t))) * z


def ancestral(D, ell, x, z, large=False):
    """Ho et al. 2020, algorithm 2."""
    for i in range(len(ell) - 1):
        x = posterior_step(D(x, ell[i]), x, ell[i], ell[i + 1], z[i], large)
    return D(x, ell[-1])


def ddim(D, ell, x, z, eta=0.0):
    """Song et al. 2021, equations 12 and 16."""
    for i in range(len(ell) - 1):
        bar_t, bar_s = alpha(ell[i]) ** 2, alpha(ell[i + 1]) ** 2
        s = eta * np.sqrt((1 - bar_s) / (1 - bar_t)) * np.sqrt(1 - bar_t / bar_s)
        x_0 = D(x, ell[i])
        eps = (x - np.sqrt(bar_t) * x_0) / np.sqrt(1 - bar_t)
        x = np.sqrt(bar_s) * x_0 + np.sqrt(1 - bar_s - s**2) * eps + s * z[i]
    return D(x, ell[-1])


def edm(D, ell, x, z, gamma=0.0, levels=(0.0, np.inf), s_noise=1.0, corrected=True):
    """Karras et al. 2022, algorithm 2, in x / alpha and the level t = sigma / alpha."""
    t, x = np.exp(-0.5 * np.asarray(ell)), x / alpha(ell[0])

    def denoise(x, t):
        return D(x / np.sqrt(1 + t**2), -2 * np.log(t))

    for i in range(len(t) - 1):
        t_hat = t[i] * (1 + gamma * (levels[0] <= t[i] <= levels[1]))
        x_hat = x + np.sqrt(t_hat**2 - t[i] ** 2) * s_noise * z[i]
        d = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * d
        if corrected:
            d_next = (x - denoise(x, t[i + 1])) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (d + d_next) / 2
    return denoise(x, t[-1])


def multistep_2(D, ell, x, z):
    """Lu et al. 2022, DPM-Solver++, algorithm 2."""
    lam, seen = np.asarray(ell) / 2, []
    for i in range(1, len(ell)):
        seen.append(D(x, ell[i - 1]))
        h, mean = lam[i] - lam[i - 1], seen[-1]
        if i > 1:
            r = (lam[i - 1] - lam[i - 2]) / h
            mean = (1 + 1 / (2 * r)) * seen[-1] - 1 / (2 * r) * seen[-2]
        x = sigma(ell[i]) / sigma(ell[i - 1]) * x
        x = x - alpha(ell[i]) * (np.exp(-h) - 1) * mean
    return D(x, ell[-1])


def multistep_3(D, ell, x, z):
    """Lu et al. 2022, equation 9: the integral of the parabola through three values.

        x_s = sigma_s/sigma_t x + sigma_s integral of e^lambda x_0(lambda)

    by Gauss-Legendre quadrature with 20 points; the first two steps as `multistep_2`.
    """
    lam, seen = np.asarray(ell) / 2, []
    points, weights = np.polynomial.legendre.leggauss(20)
    for i in range(1, len(ell)):
        seen.append(D(x, ell[i - 1]))
        if i < 3:
            h, mean = lam[i] - lam[i - 1], seen[-1]
            if i == 2:
                mean = mean + h / (lam[1] - lam[0]) * (seen[1] - seen[0]) / 2
            change = -np.expm1(-h) * mean * np.exp(lam[i])
        else:
            nodes, half = lam[i - 3 : i], (lam[i] - lam[i - 1]) / 2
            change = 0
            for u, w in zip(lam[i - 1] + half * (points + 1), weights, strict=True):
                for k in range(3):
                    others = np.delete(nodes, k)
                    lagrange = np.prod((u - others) / (nodes[k] - others))
                    change = change + half * w * np.exp(u) * lagrange * seen[i - 3 + k]
        x = sigma(ell[i]) / sigma(ell[i - 1]) * x + sigma(ell[i]) * change
    return D(x, ell[-1])


def singlestep_2(D, ell, x, z, r=0.5):
    """Lu et al. 2022, DPM-Solver++, algorithm 1."""
    for i in range(1, len(ell)):
        l_0, h = ell[i - 1], (ell[i] - ell[i - 1]) / 2
        l_s, x_0 = l_0 + 2 * r * h, D(x, l_0)
        u = sigma(l_s) / sigma(l_0) * x - alpha(l_s) * (np.exp(-r * h) - 1) * x_0
        mean = (1 - 1 / (2 * r)) * x_0 + 1 / (2 * r) * D(u, l_s)
        x = sigma(ell[i]) / sigma(l_0) * x - alpha(ell[i]) * (np.exp(-h) - 1) * mean
    return D(x, ell[-1])


def singlestep_3(D, ell, x, z, r1=1 / 3, r2=2 / 3):
    """DPM-Solver-3 (Lu et al. 2022, arXiv:2206.00927, algorithm 2) for x_0: "++"."""
    for i in range(1, len(ell)):
        l_0, h = ell[i - 1], (ell[i] - ell[i - 1]) / 2
        l_1, l_2, m = l_0 + 2 * r1 * h, l_0 + 2 * r2 * h, D(x, l_0)
        phi = [np.expm1(-r * h) for r in (r1, r2, 1)]
        u_1 = sigma(l_1) / sigma(l_0) * x - alpha(l_1) * phi[0] * m
        d_1 = D(u_1, l_1) - m
        u_2 = sigma(l_2) / sigma(l_0) * x - alpha(l_2) * phi[1] * m
        u_2 = u_2 + r2 / r1 * alpha(l_2) * (phi[1] / (r2 * h) + 1) * d_1
        d_2 = D(u_2, l_2) - m
        x = sigma(ell[i]) / sigma(l_0) * x - alpha(ell[i]) * phi[2] * m
        x = x + alpha(ell[i]) / r2 * (phi[2] / h + 1) * d_2
    return D(x, ell[-1])


def langevin(D, x, ell, z, snr):
    """Song et al. 2021, algorithm 5, with |score| = |z| / sigma; one step per z."""
    for noise in z:
        step = 2 * (snr * sigma(ell)) ** 2
        x = x + step * score(D, x, ell) + np.sqrt(2 * step) * noise
    return x


def predictor_corrector(D, ell, x, z, snr=0.16):
    """Song et al. 2021, algorithm 1: z[i] = (predictor noise, [corrector noise])."""
    for i in range(len(ell) - 1):
        x = posterior_step(D(x, ell[i]), x, ell[i], ell[i + 1], z[i][0])
        x = langevin(D, x, ell[i + 1], z[i][1], snr)
    return D(x, ell[-1])


def annealed(D, ell, x, z, snr=0.3):
    """Song and Ermon 2019, algorithm 1, in x / alpha."""
    for i in range(len(ell) - 1):
        x = langevin(D, x, ell[i], z[i], snr)
        x = alpha(ell[i + 1]) * (x / alpha(ell[i]))
    return D(x, ell[-1])
