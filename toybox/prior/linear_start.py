"""A linear starting point for an AutoencoderKL, from which training reaches sharp pictures several times sooner.

With random weights the group normalisations hide absolute colours, and the first thousand steps are spent on finding
them again. Here the residual stream passes the image on (Haar wavelets going down, bilinear pixels going up), constant
channels keep the normalisations' statistics steady, and the last convolution of each half is solved for: the encoder's
gives the best linear latents (principal components of patches), the decoder's the best linear picture.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

BRANCH = 0.1  # what is left of the random residual branches
STEADY = 2.0  # standard deviation of the constant channels


@torch.no_grad()
def start_linear(vae: AutoencoderKL, images: Tensor, log_variance: float = -7.0) -> None:
    """Sets the weights in place.

    Args:
        vae: With random weights.
        images: (B, 3, H, W) in [-1, 1], at least a dozen; memory grows with B.
        log_variance: Of the posterior that the encoder gives for every image.
    """
    for half in (vae.encoder, vae.decoder):
        for module in half.modules():
            name = type(module).__name__
            if name == "ResnetBlock2D":
                module.conv2.weight *= BRANCH
                if module.conv_shortcut is not None:
                    _pass(module.conv_shortcut)
            elif name == "Downsample2D":
                _haar(module.conv)
            elif name == "Upsample2D":
                _pass(module.conv, blur=True)
        _pass(half.conv_in)
        passed = half.conv_in.in_channels
        half.conv_in.bias[passed:].normal_(0, STEADY)
        half.conv_norm_out.bias.fill_(2.0)  # where SiLU is nearly linear
    for conv in (vae.quant_conv, vae.post_quant_conv):
        _pass(conv)
    channels = vae.config.latent_channels
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    targets = _principal_components(images, factor, channels)
    vae.encoder.conv_out.weight.zero_()
    _solve(vae.encoder, vae.encoder.conv_out, images, targets, slice(0, channels))
    vae.encoder.conv_out.bias[channels:] = log_variance
    _solve(vae.decoder, vae.decoder.conv_out, vae.post_quant_conv(targets), images, slice(None))


def _pass(conv: nn.Conv2d, blur: bool = False) -> None:
    """Channel k goes to channel k; blur: through a 3 x 3 tent."""
    conv.weight.zero_()
    conv.bias.zero_()
    centre = conv.kernel_size[0] // 2
    for k in range(min(conv.weight.shape[:2])):
        if blur:
            tent = torch.tensor([0.25, 0.5, 0.25])
            conv.weight[k, k] = tent[:, None] * tent
        else:
            conv.weight[k, k, centre, centre] = 1.0


def _haar(conv: nn.Conv2d) -> None:
    """Means and, as far as there are channels, differences over 2 x 2 pixels."""
    conv.weight.zero_()
    conv.bias.zero_()
    count = conv.weight.shape[0]
    signs = torch.tensor([[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]) / 4
    inputs = min(12, count // 4)  # channels that carry the picture
    for k in range(inputs):
        for wavelet in range(4):
            conv.weight[wavelet * inputs + k, k, :2, :2] = signs[wavelet]
    for k in range(4 * inputs, count):
        conv.weight[k, k, 0, 0] = 1.0


def _principal_components(images: Tensor, factor: int, count: int) -> Tensor:
    """The first components (B, count, H / factor, W / factor) of factor x factor patches; their mean variance is 1.

    Each is divided by the root of its deviation: fine detail stays weaker than coarse colour, but not lost in noise.
    """
    patches = F.pixel_unshuffle(images, factor)
    flat = patches.permute(0, 2, 3, 1).reshape(-1, patches.shape[1])
    flat = flat - flat.mean(0)
    axes = torch.linalg.eigh(flat.T @ flat).eigenvectors.flip(1)[:, :count]
    projected = flat @ axes
    projected = projected / projected.std(0).sqrt()
    projected = projected / projected.square().mean().sqrt()
    return projected.reshape(len(images), *patches.shape[2:], count).permute(0, 3, 1, 2).contiguous()


def _solve(half: nn.Module, conv: nn.Conv2d, inputs: Tensor, targets: Tensor, rows: slice) -> None:
    """Least squares for the weights of a half's last convolution, channels `rows`."""
    features = []
    hook = conv.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    half(inputs)
    hook.remove()
    columns = F.unfold(features[0], 3, padding=1).transpose(1, 2).flatten(0, 1)
    columns = torch.cat([columns, torch.ones(len(columns), 1)], 1).double()
    wanted = targets.flatten(2).transpose(1, 2).flatten(0, 1).double()
    ridge = 1e-4 * len(columns) * torch.eye(columns.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(columns.T @ columns + ridge, columns.T @ wanted).float()
    conv.weight[rows] = solution[:-1].T.reshape(-1, *conv.weight.shape[1:])
    conv.bias[rows] = solution[-1]
