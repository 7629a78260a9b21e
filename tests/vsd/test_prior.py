import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from common.errors import InputError
from toybox.prior.architecture import PROMPT_TOKENS, untrained_pipeline, word_tokenizer
from toybox.world.captions import VOCABULARY
from vsd.embeddings import encode, free_text_encoders
from vsd.prior import DiffusionPrior, Text
from vsd.prior_files import REMOVED
from vsd.prompts import Prompts, PromptTable
from vsd.views import eight_sectors


@pytest.fixture
def prior():
    return DiffusionPrior(untrained_pipeline(VOCABULARY))


def test_encoding_has_a_gradient_and_the_unet_is_frozen(prior):
    images = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_(True)
    latents = prior.encode(images)
    assert latents.shape == (2, 8, 16, 16)
    latents.sum().backward()
    assert images.grad.abs().sum() > 0
    assert not any(p.requires_grad for part in (prior.unet, prior.vae) for p in part.parameters())
    assert prior.decode(latents).shape == images.shape and prior.image_size == 64 and prior.steps == 1000


def test_noise_follows_the_schedule(prior):
    x_0, eps = torch.randn(3, 8, 16, 16), torch.randn(3, 8, 16, 16)
    t = torch.tensor([0, 500, 999])
    scheduled = prior.pipeline.scheduler.add_noise(x_0, eps, t)
    torch.testing.assert_close(prior.noise(x_0, t, eps), scheduled)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_predictions_are_eps_whatever_the_network_predicts(prediction):
    """One DDIM step of diffusers' scheduler from our eps must equal its step from the raw output."""
    pipeline = untrained_pipeline(VOCABULARY)
    pipeline.scheduler.register_to_config(prediction_type=prediction)
    prior = DiffusionPrior(pipeline)
    text = encode(prior, ["a red car"])
    x_t, t = torch.randn(1, 8, 16, 16), torch.tensor([600])
    with torch.no_grad():
        raw = pipeline.unet(x_t, t, text.states).sample
        eps = prior.predict(x_t, t, text)
    pipeline.scheduler.set_timesteps(1000)
    expected = pipeline.scheduler.step(raw, 600, x_t).prev_sample
    pipeline.scheduler.register_to_config(prediction_type="epsilon")
    torch.testing.assert_close(pipeline.scheduler.step(eps, 600, x_t).prev_sample, expected, atol=1e-5, rtol=1e-5)


def test_many_texts_in_one_pass_equal_single_passes(prior):
    table = PromptTable(prior, Prompts("a red car", views=eight_sectors()))
    x_t, t = torch.randn(2, 8, 16, 16), torch.tensor([20, 700])
    texts = [table.of_cameras(torch.tensor([0.0, 90.0]), torch.tensor([10.0, 10.0])), table.negative.repeat(2)]
    together = prior.predict_many(x_t, t, texts)
    for text, eps in zip(texts, together, strict=True):
        torch.testing.assert_close(eps, prior.predict(x_t, t, text), atol=1e-5, rtol=1e-5)


def test_every_view_gets_its_words():
    prompts = Prompts("a red car", views=eight_sectors(), overrides={"back view": "the back of a red car"})
    texts = prompts.of_views()
    assert texts[0] == "a red car, front view" and texts[4] == "the back of a red car"
    assert texts[-1] == "a red car, overhead view" and len(texts) == 9
    assert Prompts("a red car").of_views() == ["a red car"]


def test_the_table_holds_the_pipelines_own_embeddings(prior):
    table = PromptTable(prior, Prompts("a red car", negative="a duck", views=eight_sectors()))
    for text, prompt in (
        (table.plain, "a red car"),
        (table.negative, "a duck"),
        (table.views[2:3], "a red car, left side view"),
    ):
        expected, _ = prior.pipeline.encode_prompt(prompt, "cpu", 1, False)
        torch.testing.assert_close(text.states, expected)
    cameras = table.of_cameras(torch.tensor([-90.0, 0.0]), torch.tensor([0.0, 80.0]))
    torch.testing.assert_close(cameras.states, table.views.states[[6, 8]])
    free_text_encoders(prior)
    assert prior.pipeline.text_encoder is None


def small_sdxl():
    """Stable Diffusion XL's architecture, two text encoders and added conditions, at a toy's size."""
    tokenizer = word_tokenizer(VOCABULARY)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, projection_dim=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=PROMPT_TOKENS, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=(2, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer, tokenizer_2=tokenizer, unet=unet, scheduler=DDIMScheduler(beta_schedule="scaled_linear"),
        add_watermarker=False,
    )  # fmt: skip


def test_sdxl_gets_its_pooled_text_and_sizes(tmp_path):
    small_sdxl().save_pretrained(tmp_path / "sdxl")
    prior = DiffusionPrior.load(str(tmp_path / "sdxl"))
    table = PromptTable(prior, Prompts("a red car"))
    assert table.plain.states.shape[-1] == 64 and table.plain.pooled.shape == (1, 24)
    cached = PromptTable(prior, Prompts("a red car")).plain
    assert torch.equal(cached.states, table.plain.states) and torch.equal(cached.pooled, table.plain.pooled)
    x_t, t = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    text = table.plain.repeat(2)
    eps = prior.predict(x_t, t, text)
    ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(2, 6)
    raw = prior.unet(x_t, t, text.states, added_cond_kwargs={"text_embeds": text.pooled, "time_ids": ids}).sample
    torch.testing.assert_close(eps, raw)
    other = prior.predict(x_t, t, Text(text.states, text.pooled + 1))
    assert not torch.allclose(other, eps), "the pooled embedding must reach the network"


@pytest.mark.parametrize("model", REMOVED)
def test_removed_ids_are_answered_with_their_mirror(model):
    with pytest.raises(InputError, match=REMOVED[model]):
        DiffusionPrior.load(model)


def test_a_missing_id_is_named():
    with pytest.raises(InputError) as caught:
        DiffusionPrior.load("nobody/no-such-model")
    assert "nobody/no-such-model" in str(caught.value) and "\n" not in str(caught.value)


def test_half_precision_and_unknown_predictions_are_refused():
    with pytest.raises(InputError, match="use float32 or bfloat16"):
        DiffusionPrior(untrained_pipeline(VOCABULARY), dtype=torch.float16)
    pipeline = untrained_pipeline(VOCABULARY)
    pipeline.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(InputError, match="predicts 'sample'"):
        DiffusionPrior(pipeline)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"prompt": "  "}, "prompt: it is empty"),
        ({"prompt": "a" * 10_000}, "prompt: 10000 characters"),
        ({"prompt": "a red car", "negative": "b" * 3000}, "negative: 3000 characters"),
        ({"prompt": "a red car", "overrides": {"worm view": "x"}}, "no view is called 'worm view'"),
    ],
)
def test_wrong_prompts_are_named(arguments, named):
    with pytest.raises(InputError, match=named):
        Prompts(**arguments)
