"""The algebra of a noise schedule: x_t = alpha_t x_0 + sigma_t eps, and what a network may predict of it.

alpha_t = sqrt(alphabar_t), sigma_t = sqrt(1 - alphabar_t). x_0, x_t, eps and v are (B, C, H, W); alphabar is (B,).
"""

from torch import Tensor

SMALLEST = 1e-6  # alphabar where it divides: a schedule with zero terminal SNR ends at 0, where x_t says nothing of x_0


def per_sample(values: Tensor) -> Tensor:
    """Values (B,) as (B, 1, 1, 1), to be multiplied with images."""
    return values[:, None, None, None]


def add_noise(x_0: Tensor, eps: Tensor, alphabar: Tensor) -> Tensor:
    """x_t = alpha_t x_0 + sigma_t eps."""
    alphabar = per_sample(alphabar)
    return alphabar.sqrt() * x_0 + (1 - alphabar).sqrt() * eps


def x0_of_eps(eps: Tensor, x_t: Tensor, alphabar: Tensor) -> Tensor:
    """x_0 = (x_t - sigma_t eps) / alpha_t."""
    alphabar = per_sample(alphabar)
    return (x_t - (1 - alphabar).sqrt() * eps) / alphabar.clamp(min=SMALLEST).sqrt()


def eps_of_x0(x_0: Tensor, x_t: Tensor, alphabar: Tensor) -> Tensor:
    """eps = (x_t - alpha_t x_0) / sigma_t."""
    alphabar = per_sample(alphabar)
    return (x_t - alphabar.sqrt() * x_0) / (1 - alphabar).sqrt()


def eps_of_v(v: Tensor, x_t: Tensor, alphabar: Tensor) -> Tensor:
    """eps = alpha_t v + sigma_t x_t.

    Source: Salimans and Ho 2022, appendix D.
    """
    alphabar = per_sample(alphabar)
    return alphabar.sqrt() * v + (1 - alphabar).sqrt() * x_t


def v_of_eps(eps: Tensor, x_0: Tensor, alphabar: Tensor) -> Tensor:
    """v = alpha_t eps - sigma_t x_0.

    Source: Salimans and Ho 2022, appendix D.
    """
    alphabar = per_sample(alphabar)
    return alphabar.sqrt() * eps - (1 - alphabar).sqrt() * x_0


def matching_times(alphabar: Tensor, other: Tensor) -> Tensor:
    """Timesteps (T,) at which the schedule `other` is as noisy as `alphabar` is at 0 ... T - 1, to the nearest."""
    return (alphabar[:, None] - other[None]).abs().argmin(1)
