"""KID: the squared maximum mean discrepancy of image features with a cubic kernel, unbiased, with its standard error.

The features are those of the judge of parts, trained on truth alone. The toybox's image tower, the other choice, is
trained to match captions, an object, a colour and a view, and does not see as well what a caption does not say, such as
blur: `python -m evaluation.faults` prints how much KID rises with either. Noise is what the judge is trained to ignore.

The views of an object are not independent of each other, so that objects, not pictures, are what is drawn: the kernel
of two objects is the mean over the pairs of their views. Shapes: N and M objects, V views, D features.
Source: Binkowski et al. 2018, Demystifying MMD GANs.
"""

from dataclasses import dataclass

from torch import Tensor

FEW = 3  # objects, and views, that the error needs at least


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error.

    Args:
        value: The estimate; unbiased, so it may be negative.
        error: One standard error, by the jackknife; up to 1.5 times too large between equal distributions.
    """

    value: float
    error: float


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a . b / D + 1)^3 for features a (N, D) and b (M, D), as (N, M)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def kid(a: Tensor, b: Tensor) -> Estimate | None:
    """KID between two sets of objects.

    Args:
        a: (N, V, D). With fewer than 3 objects only pairs of different views count; for one object, which has no other
            to be paired with, the estimate is then too high by as much as its views have in common.
        b: (M, V, D), M >= 3.

    Returns:
        The estimate; None for fewer than 3 objects in fewer than 3 views.
    """
    a, b = a.double(), b.double()
    if len(a) >= FEW:
        return _of_objects(*(_between_objects(x, y) for x, y in ((a, a), (b, b), (a, b))))
    if a.shape[1] >= FEW:
        return _of_views(*(_between_views(x, y) for x, y in ((a, a), (b, b), (a, b))))
    return None


def _between_objects(a: Tensor, b: Tensor) -> Tensor:
    """The kernel (N, M) of objects."""
    values = kernel(a.flatten(0, 1), b.flatten(0, 1))
    return values.view(*a.shape[:2], *b.shape[:2]).mean((1, 3))


def _of_objects(aa: Tensor, bb: Tensor, ab: Tensor) -> Estimate:
    """The estimate from the kernels within a and b and between them; the jackknife leaves out one object at a time."""
    n, m = ab.shape
    aa, bb = aa.fill_diagonal_(0), bb.fill_diagonal_(0)
    within_a, within_b, between = aa.sum(), bb.sum(), ab.sum()
    value = within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * between / (n * m)
    without_a = (within_a - 2 * aa.sum(1)) / ((n - 1) * (n - 2)) + within_b / (m * (m - 1))
    without_a = without_a - 2 * (between - ab.sum(1)) / ((n - 1) * m)
    without_b = (within_b - 2 * bb.sum(1)) / ((m - 1) * (m - 2)) + within_a / (n * (n - 1))
    without_b = without_b - 2 * (between - ab.sum(0)) / ((m - 1) * n)
    variance = sum((len(x) - 1) * x.var(correction=0) for x in (without_a, without_b))
    return Estimate(float(value), float(variance.sqrt()))


def _between_views(a: Tensor, b: Tensor) -> Tensor:
    """The kernel (V, V) of views: the mean over all pairs of objects, of different ones within a set of several."""
    values = kernel(a.flatten(0, 1), b.flatten(0, 1)).view(*a.shape[:2], *b.shape[:2])
    if a is b and len(a) > 1:
        same = values.diagonal(dim1=0, dim2=2).sum(-1)
        return (values.sum((0, 2)) - same) / (len(a) * (len(a) - 1))
    return values.mean((0, 2))


def _of_views(aa: Tensor, bb: Tensor, ab: Tensor) -> Estimate:
    """The estimate from kernels of views, of pairs of different ones; the jackknife leaves out one view at a time."""
    difference = aa + bb - ab - ab.T
    difference = difference.fill_diagonal_(0)
    count = len(difference)
    total = difference.sum()
    without = (total - difference.sum(0) - difference.sum(1)) / ((count - 1) * (count - 2))
    error = ((count - 1) * without.var(correction=0)).sqrt()
    return Estimate(float(total / (count * (count - 1))), float(error))
