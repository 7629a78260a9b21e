"""Particles as images, the smallest experiment of the claims: one prompt, one view, any kind of guidance.

A particle is a latent, g(theta) = theta. All particles of a run share one phi. The settings are those of the toybox's
2D stage (`configs/toybox/image.yaml`); every particle makes the same number of steps whatever their number.
"""

from dataclasses import asdict, dataclass
from statistics import mean

import torch
from torch import Tensor

from common.randomness import generator
from vsd.embeddings import encode
from vsd.prior import DiffusionPrior
from vsd.score_distillation import Conditions, Kind, ScoreDistillation
from vsd.score_network import ALL_LAYERS, ATTENTION, ScoreNetwork
from vsd.score_trainer import ScoreSettings, ScoreTrainer
from vsd.small_score_network import SmallScoreNetwork
from vsd.timesteps import Timesteps

PER_STEP = 8  # particles that a step moves, at most
LR = 0.03  # of the particles, Adam
RANK = 8  # of phi's LoRA
LAYERS = {"attention": ATTENTION, "all": ALL_LAYERS}
SWITCHES = {  # of a run; options of ScoreSettings that it changes
    "": {},
    "adaptive": {"adaptive_lr": True},
    "shared": {"shared_forward": True},
    "small": {"network": "small"},
    "bfloat16": {},  # weights of the prior and of phi's base
}
# Guidances of the caller's own by name: the kind on which each builds, and its class, built as ScoreDistillation is.
Own = dict[str, tuple[Kind, type[ScoreDistillation]]]


@dataclass(frozen=True)
class Setting:
    """One run.

    Args:
        prompt: y^c, with the words of its view.
        kind: Of the guidance, or a name among the caller's own.
        scale: Of classifier-free guidance.
        particles: n.
        seed: Of everything that is drawn.
        steps: Of each particle.
        updates: K, steps of phi per particle step.
        lr: Of phi.
        layers: With a LoRA, a key of LAYERS.
        phi_mix: Fraction of eps_phi in what is subtracted.
        decay: Whether the particles' learning rate falls linearly to 0.
        switch: A key of SWITCHES, what else is changed; "" for nothing.
    """

    prompt: str
    kind: str
    scale: float
    particles: int = 8
    seed: int = 0
    steps: int = 300
    updates: int = 1
    lr: float = 3e-3
    layers: str = "all"
    phi_mix: float = 1.0
    decay: bool = False
    switch: str = ""

    @property
    def key(self) -> str:
        """A name for files: the values, joined."""
        values = [str(value) for value in asdict(self).values()]
        named = values if self.switch else values[:-1]  # files of earlier runs stay valid
        return "-".join(value.replace(" ", "_").replace(",", "") for value in named)


def distil(setting: Setting, model: str = "toybox", own: Own | None = None) -> tuple[Tensor, dict[str, float]]:
    """Runs a setting.

    Args:
        setting: The run.
        model: The prior: "toybox", a folder or a hub id.
        own: Guidances of the caller's own; None for none.

    Returns:
        Images (n, 3, H, W) in [0, 1], and phi's health (see `vsd.health`), means over the second half of the run; empty
        without phi.
    """
    kind, build = (own or {}).get(setting.kind, (setting.kind, ScoreDistillation))
    prior = DiffusionPrior.load(model, dtype=torch.bfloat16 if setting.switch == "bfloat16" else torch.float32)
    draws = generator("cpu", setting.seed, 0)
    text, empty = encode(prior, [setting.prompt]), encode(prior, [""])
    theta = torch.nn.ParameterList(
        torch.nn.Parameter(0.5 * torch.randn(prior.latent_shape, generator=draws)) for _ in range(setting.particles)
    )
    optimizer = torch.optim.Adam(theta, LR)
    trainer = None
    if kind in ("vsd", "esd"):
        with torch.random.fork_rng():
            torch.manual_seed(setting.seed)
            small = setting.switch == "small"
            phi = SmallScoreNetwork(prior) if small else ScoreNetwork(prior, RANK, LAYERS[setting.layers])
        settings = ScoreSettings(lr=setting.lr, warmup=20, updates=setting.updates, **SWITCHES[setting.switch])
        trainer = ScoreTrainer(phi, settings, setting.seed)
    shared = setting.switch == "shared"
    distillation = build(
        prior, trainer and trainer.network, kind, setting.scale, phi_mix=setting.phi_mix, shared_forward=shared
    )
    schedule, count = Timesteps(setting.steps), min(PER_STEP, setting.particles)
    health: dict[str, list[float]] = {}
    for step in range(setting.steps):
        if setting.decay:
            optimizer.param_groups[0]["lr"] = LR * (1 - step / setting.steps)
        order = torch.randperm(setting.particles, generator=draws)
        for chosen in order.split(count):
            x_0 = torch.stack([theta[i] for i in chosen.tolist()])  # (m, C, h, w)
            t = schedule.sample(torch.full((len(chosen),), step), prior.steps, draws)
            conditions = Conditions(text.repeat(len(chosen)), empty.repeat(len(chosen)))
            optimizer.zero_grad()
            distillation.loss(x_0, conditions, t, generator=draws).backward()
            optimizer.step()
            if trainer is not None:
                trainer.adapt(distillation.health)
                trainer.update(distillation.latents, conditions.text, shared=distillation.take_forward())
        if trainer is not None and 2 * step >= setting.steps:
            for name, figure in distillation.health.figures().items():
                health.setdefault(name, []).append(float(figure))
    images = ((prior.decode(torch.stack(list(theta)).detach()) + 1) / 2).clamp(0, 1)
    return images, {name: mean(values) for name, values in health.items()}
