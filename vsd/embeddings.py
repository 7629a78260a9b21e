"""Text embeddings, made by the pipeline's own text encoders and cached in a file for each prompt.

The cache is keyed by content: the tokenizers, the encoders' weights, the dtype and the prompt. Files are named by the
key's hash, whatever the prompt says, and one that does not read is made anew.
"""

import hashlib
import json
from pathlib import Path

import diffusers
import torch
import transformers

from common.cache import cache_folder, read_cached, tell_damaged, write_cached
from common.errors import InputError
from vsd.prior import DiffusionPrior, Text

VERSION = 1


def embed(prior: DiffusionPrior, prompts: list[str]) -> Text:
    """Text conditions of prompts, on the prior's device, from the cache or made and put there.

    The text encoders run, and go to the device, only for prompts that the cache lacks. InputError for a prompt of more
    tokens than they read, whose end, and with it the view's words, would be lost.
    """
    _check_length(prior, prompts)
    model = fingerprint(prior)
    found: dict[str, Text | None] = {prompt: _read(_file(model, prompt)) for prompt in prompts}
    missing = [prompt for prompt, text in found.items() if text is None]
    if missing:
        encoded = encode(prior, missing)
        found |= {prompt: encoded[k : k + 1] for k, prompt in enumerate(missing)}
        all(_write(_file(model, prompt), found[prompt]) for prompt in missing)  # the first failure tells of all
    return Text.cat([found[prompt].to(prior.device, prior.dtype) for prompt in prompts])


@torch.no_grad()
def encode(prior: DiffusionPrior, prompts: list[str]) -> Text:
    """Text conditions of prompts, with the pipeline's own tokenizers and encoders (two of them in SDXL), uncached."""
    pipeline = prior.pipeline
    for encoder in _parts(prior, "text_encoder"):
        encoder.to(prior.device)
    states, _, *pooled = pipeline.encode_prompt(
        prompt=prompts, device=prior.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return Text(states, pooled[0] if pooled else None).to(prior.device, prior.dtype)


def free_text_encoders(prior: DiffusionPrior) -> None:
    """Drops the text encoders, which nothing needs once the embeddings are made."""
    for name in ("text_encoder", "text_encoder_2"):
        if getattr(prior.pipeline, name, None) is not None:
            setattr(prior.pipeline, name, None)


def fingerprint(prior: DiffusionPrior) -> str:
    """A hash of all that an embedding depends on but the prompt; a second for a gigabyte of encoders."""
    libraries = diffusers.__version__, transformers.__version__
    digest = hashlib.sha256(repr((VERSION, libraries, type(prior.pipeline).__name__, str(prior.dtype))).encode())
    for tokenizer in _parts(prior, "tokenizer"):
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content |= {"truncation": tokenizer.model_max_length, "padding": tokenizer.pad_token}  # not those of last use
        digest.update(json.dumps(content, sort_keys=True).encode())
    for encoder in _parts(prior, "text_encoder"):
        settings = encoder.config.to_dict() | {"_name_or_path": None}
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, value in encoder.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _parts(prior: DiffusionPrior, name: str) -> list:
    """The pipeline's one or two parts of a kind."""
    parts = [getattr(prior.pipeline, f"{name}{suffix}", None) for suffix in ("", "_2")]
    return [part for part in parts if part is not None]


def _check_length(prior: DiffusionPrior, prompts: list[str]) -> None:
    for tokenizer in _parts(prior, "tokenizer"):
        for prompt in prompts:
            count = len(tokenizer(prompt, truncation=False, verbose=False).input_ids)
            if count > tokenizer.model_max_length:
                start, end = " ".join(prompt[:30].split()), " ".join(prompt[-30:].split())
                raise InputError(
                    f"prompt: '{start} ... {end}' has {count} tokens, of which the text encoder reads "
                    f"{tokenizer.model_max_length}; shorten it"
                )


def _file(model: str, prompt: str) -> Path:
    key = hashlib.sha256(f"{model} {prompt}".encode()).hexdigest()
    return cache_folder() / "embeddings" / f"{key}.safetensors"


def _read(file: Path) -> Text | None:
    tensors = read_cached(file)
    if tensors is not None and "states" not in tensors:
        tell_damaged(file, "it holds other tensors")
        tensors = None
    return None if tensors is None else Text(tensors["states"], tensors.get("pooled"))


def _write(file: Path, text: Text) -> bool:
    return write_cached(file, {"states": text.states} | ({} if text.pooled is None else {"pooled": text.pooled}))
