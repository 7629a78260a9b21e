"""Distils the toybox prior into a generator of one step, in plain torch.

The student is a copy of the prior's UNet, asked once, at the last timestep, for the picture in pure noise. It never
sees a picture: the prior and phi judge what it draws for random prompts. The picture that is written has three rows:
the prior asked once, the student, and the prior's samples of 30 steps.
Source: SwiftBrush (Nguyen and Tran 2024), with the weight of DMD (Yin et al. 2024).
"""

import argparse
import copy
import random

import torch
from PIL import Image

from common.pixels import to_uint8
from toybox.world.captions import VIEW_WORDS, caption
from toybox.world.objects import COLOURS, OBJECTS
from vsd import Conditions, DiffusionPrior, ScoreDistillation, ScoreNetwork, ancestral_samples
from vsd.embeddings import encode

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=1500, help="of the student (default: %(default)s)")
parser.add_argument("--batch", type=int, default=8, help="pictures per step (default: %(default)s)")
parser.add_argument("--out", default="one_step_generator.png", help="the picture to write (default: %(default)s)")
options = parser.parse_args()

prior = DiffusionPrior.load("toybox")
student = copy.deepcopy(prior.unet).requires_grad_(True).train()
phi = ScoreNetwork(prior, rank=16, targets=("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"))
distillation = ScoreDistillation(prior, phi, scale=2.0, weight="dmd", reduction="mean")
captions = [caption(name, colour, view) for name in OBJECTS for colour in COLOURS for view in VIEW_WORDS]
texts, empty = encode(prior, captions), encode(prior, [""])


def draw(unet: torch.nn.Module, noise: torch.Tensor, text) -> torch.Tensor:
    """Latents of one step from pure noise: at the last timestep v is -x_0."""
    t = torch.full((len(noise),), prior.steps - 1)
    return -unet(noise, t, text.states).sample


optimizers = torch.optim.AdamW(student.parameters(), 1e-4), torch.optim.AdamW(phi.parameters(), 1e-3)
random.seed(0), torch.manual_seed(0)
for step in range(options.steps):
    text = texts[torch.tensor(random.choices(range(len(captions)), k=options.batch))]
    x_0 = draw(student, torch.randn(options.batch, *prior.latent_shape), text)
    loss = distillation.loss(x_0, Conditions(text, empty.repeat(options.batch)))
    score_loss = phi.loss(distillation.latents, text)
    for optimizer, value in zip(optimizers, (loss, score_loss), strict=True):
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    if step % 50 == 0:
        print(f"step {step}  loss {loss.item():.3f}  phi {score_loss.item():.3f}", flush=True)

objects = ("red car", "yellow duck", "blue chair", "white snowman", "green mug", "pink house")
text, noise = encode(prior, [f"a {words}, front left view" for words in objects]), torch.randn(6, *prior.latent_shape)
with torch.no_grad():
    rows = [(prior.decode(draw(unet, noise, text)) + 1) / 2 for unet in (prior.unet, student)]
rows.append(ancestral_samples(prior, text, empty.repeat(6), scale=3.0, rescale=0.7, steps=30))
grid = torch.cat([torch.cat(list(row), 2) for row in rows], 1).permute(1, 2, 0)
Image.fromarray(to_uint8(grid).numpy()).save(options.out)
print(options.out)
