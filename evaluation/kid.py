"""KID: the squared maximum mean discrepancy of image features with a cubic kernel, unbiased, with its standard error.

The features are those of the judge of parts, trained on truth alone. The toybox's image tower, the other choice, is
trained to match captions, an object, a colour and a view, and does not see as well what a caption does not say, such as
a missing beak: `python -m evaluation.faults` prints how much KID rises with either.
Source: Binkowski et al. 2018, Demystifying MMD GANs.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error.

    Args:
        value: The estimate; unbiased, so it may be negative.
        error: One standard error, by the jackknife over the rows of both sets; up to 1.5 times too large between
            equal distributions.
    """

    value: float
    error: float


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a . b / D + 1)^3 for features a (N, D) and b (M, D), as (N, M)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def kid(a: Tensor, b: Tensor) -> Estimate:
    """KID between two sets of features.

    Args:
        a: (N, D), N >= 3.
        b: (M, D), M >= 3.

    Returns:
        The estimate; its error is 0 only for sets of equal rows.
    """
    a, b = a.double(), b.double()
    n, m = len(a), len(b)
    aa, bb, ab = kernel(a, a).fill_diagonal_(0), kernel(b, b).fill_diagonal_(0), kernel(a, b)
    within_a, within_b, between = aa.sum(), bb.sum(), ab.sum()
    value = within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * between / (n * m)
    # The estimate without each row of a, then without each row of b.
    without_a = (within_a - 2 * aa.sum(1)) / ((n - 1) * (n - 2)) + within_b / (m * (m - 1))
    without_a = without_a - 2 * (between - ab.sum(1)) / ((n - 1) * m)
    without_b = (within_b - 2 * bb.sum(1)) / ((m - 1) * (m - 2)) + within_a / (n * (n - 1))
    without_b = without_b - 2 * (between - ab.sum(0)) / ((m - 1) * n)
    variance = sum((len(x) - 1) * x.var(correction=0) for x in (without_a, without_b))
    return Estimate(float(value), float(variance.sqrt()))
