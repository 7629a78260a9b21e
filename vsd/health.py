"""How well phi knows the renders, from what a particle step computes anyway: no truth, no extra pass, no host sync.

Fresh renders get fresh noise, so phi's error at a particle step is its error on renders that it has not learned yet.
The prior's error on the same noisy renders stands beside it. Both are kept by noise level, since they differ by orders
of magnitude between the ends of the schedule.
"""

import torch
from torch import Tensor

BINS = 4  # equal ranges of t / T
DECAY = 0.98  # of the running sums per particle step: a memory of about 50 steps
FEW = 0.02  # of all elements: a noise level with fewer has not been seen for long and is left out
LAGS, RUNS_AWAY = 0.9, 1.1  # calibration below, ratio above which a run says so; from docs/claims/phi.md
SURE = 500  # particle steps before a run says anything: phi warms up


class PhiHealth:
    """Running errors of phi and of the prior on fresh renders.

    Two figures come from them. `ratio` is phi's error over the prior's, the mean over noise levels: below 1 phi
    knows the renders better than the prior does; near 1 or above it lags, and VSD's gradient is that of a wrong score.
    `calibration` is <eps, eps_phi> / |eps_phi|^2, 1 for every predictor that is the mean of eps given x_t on what it
    sees, below 1 for one that claims more than it knows, as after renders have moved on or phi has run away.

    Args:
        steps: T of the prior.
        device: Of the sums.
    """

    def __init__(self, steps: int, device: torch.device | str = "cpu"):
        self.steps, self.observed = steps, 0
        # (5, BINS): |eps - eps_phi|^2, |eps - eps_pretrain|^2, <eps, eps_phi>, |eps_phi|^2, elements
        self.sums = torch.zeros(5, BINS, device=device)

    @torch.no_grad()
    def observe(self, t: Tensor, eps: Tensor, eps_phi: Tensor, eps_text: Tensor) -> None:
        """Adds a particle step.

        Args:
            t: (B,), the prior's timesteps.
            eps: (B, C, H, W), the noise of the renders.
            eps_phi: (B, C, H, W), phi's prediction.
            eps_text: (B, C, H, W), the prior's for the text, without guidance.
        """
        eps, eps_phi, eps_text = (x.float().flatten(1) for x in (eps, eps_phi, eps_text))
        rows = torch.stack(
            [
                (eps - eps_phi).square().sum(1),
                (eps - eps_text).square().sum(1),
                (eps * eps_phi).sum(1),
                eps_phi.square().sum(1),
                torch.full_like(t, eps.shape[1], dtype=torch.float32),
            ]
        )  # (5, B)
        bins = (t * BINS // self.steps).clamp(max=BINS - 1)
        rows = torch.where(rows.isfinite(), rows, 0.0)
        self.observed += 1
        self.sums.mul_(DECAY).index_add_(1, bins, rows)

    def ratio(self) -> Tensor:
        """Phi's error over the prior's, the mean over the recent noise levels; nan before the first step."""
        return self._mean(self.sums[0], self.sums[1])

    def calibration(self) -> Tensor:
        """<eps, eps_phi> / |eps_phi|^2, the mean over the recent noise levels; nan before the first step."""
        return self._mean(self.sums[2], self.sums[3])

    def _mean(self, above: Tensor, below: Tensor) -> Tensor:
        elements = self.sums[4]
        return torch.where(elements > FEW * elements.sum(), above / below, torch.nan).nanmean()

    def figures(self) -> dict[str, Tensor]:
        """All figures by name, scalars on the device; none before the first step."""
        return {"phi_ratio": self.ratio(), "phi_calibration": self.calibration()} if self.observed else {}

    def warning(self, sure: int = SURE) -> str | None:
        """One line that names what ails phi, None where nothing does or nobody can tell yet; waits for the device.

        Args:
            sure: Particle steps before there is a verdict.
        """
        if self.observed < sure:
            return None
        ratio, calibration = float(self.ratio()), float(self.calibration())
        if ratio > RUNS_AWAY:
            return (
                f"warning: guidance.score: phi has run away, its error on fresh renders is {ratio:.1f} times the "
                "prior's; lower guidance.score.lr"
            )
        if calibration < LAGS:
            return (
                f"warning: guidance.score: phi lags behind the renders (calibration {calibration:.2f}, 1 is right); "
                "raise guidance.score.lr or guidance.score.updates, or give more layers in guidance.score.targets"
            )
        return None

    def state_dict(self) -> dict:
        """The sums and their number."""
        return {"sums": self.sums.cpu(), "observed": self.observed}

    def load_state_dict(self, state: dict) -> None:
        """Restores what `state_dict` has returned.

        Args:
            state: Of a health of as many noise levels.
        """
        self.sums.copy_(state["sums"])
        self.observed = state["observed"]
