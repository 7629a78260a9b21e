"""Training targets of less variance: the posterior mean of x_0 among pictures of the same caption.

A noisy latent x_t = alpha x_0 + sigma eps fits many pictures where sigma is large. The plain target names the one that
it was drawn from, and the network can only learn the mean over all that fit. Here that mean is taken beforehand, over
x_0 itself and R references that are drawn from the pictures of the same caption. Given the R + 1 pictures, each is as
likely to be the origin as its density p(x_t | x_0) says; so the mean of the target given x_t, and with it the best
network, stays what it was.

Source: Xu, Tong and Jaakkola 2023, Stable Target Field, with references per caption.
"""

import torch
from torch import Tensor

from toybox.prior.data import labels
from toybox.world.captions import EITHER_SIDE, SIDES, caption
from toybox.world.renders import Renders


class Pools:
    """Which training pictures a caption fits.

    Args:
        renders: N of them; with the mirror images 2 N pictures.
        device: Of the indices.
    """

    def __init__(self, renders: Renders, device: torch.device | str = "cpu"):
        every = torch.arange(len(renders))
        members: dict[str, list[int]] = {"": list(range(2 * len(renders)))}
        rows = [zip(*labels(renders, every, torch.full_like(every, flip).bool()), strict=True) for flip in (0, 1)]
        for index, (name, colour, view) in enumerate(row for half in rows for row in half):
            views = (None, view, EITHER_SIDE) if view in SIDES else (None, view)
            for words in views:
                members.setdefault(caption(name, colour, words), []).append(index)
        self.row = {text: k for k, text in enumerate(members)}
        # The pools one after the other, and where each begins.
        self.size = torch.tensor([len(pool) for pool in members.values()], device=device)
        self.start = self.size.cumsum(0) - self.size
        self.members = torch.cat([torch.tensor(pool) for pool in members.values()]).to(device)

    def draw(self, captions: list[str], count: int, draws: torch.Generator | None = None) -> Tensor:
        """Pictures that fit captions, drawn uniformly, with replacement.

        Args:
            captions: B of them, each of which fits at least one picture.
            count: R.
            draws: The generator of the draws, on the device.

        Returns:
            (B, R) indices of pictures.
        """
        rows = torch.tensor([self.row[text] for text in captions], device=self.size.device)
        u = torch.rand(len(captions), count, generator=draws, device=self.size.device)
        size = self.size[rows][:, None]
        return self.members[self.start[rows][:, None] + (u * size).long().clamp(max=size - 1)]


def posterior_mean(noisy: Tensor, candidates: Tensor, alphabar: Tensor) -> Tensor:
    """E[x_0 | x_t] where x_0 is one of the candidates, each as likely as the others.

    Args:
        noisy: (B, ...) x_t.
        candidates: (B, R, ...) what x_0 may be.
        alphabar: (B,) alpha^2, below 1.

    Returns:
        (B, ...) float32.
    """
    # Half precision would lose the exponents.
    with torch.autocast(noisy.device.type, enabled=False):
        x_t, x_0 = noisy.float().flatten(1), candidates.float().flatten(2)  # (B, D), (B, R, D)
        alpha, variance = alphabar.sqrt()[:, None], (1 - alphabar)[:, None]
        # log p(x_t | x_0) = -|x_t - alpha x_0|^2 / (2 sigma^2), less what all candidates have in common
        likely = alpha * torch.einsum("bd,brd->br", x_t, x_0) - alpha.square() * x_0.square().sum(2) / 2
        weights = torch.softmax(likely / variance, 1)  # (B, R)
        return torch.einsum("br,brd->bd", weights, x_0).view_as(noisy)


def v_of_mean(noisy: Tensor, mean: Tensor, alphabar: Tensor) -> Tensor:
    """The v-prediction target (B, ...) for x_t (B, ...) and x_0 (B, ...): v = (alpha x_t - x_0) / sigma."""
    shape = (-1,) + (1,) * (noisy.dim() - 1)
    return (alphabar.sqrt().view(shape) * noisy - mean) / (1 - alphabar).sqrt().view(shape)
