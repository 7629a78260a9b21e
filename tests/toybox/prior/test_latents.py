import torch

from toybox.prior import latents as module
from toybox.prior.latents import encode, load_latents
from toybox.world.renders import load_renders
from vsd.prior import load_pipeline


def test_latents_are_encoded_once_and_belong_to_the_weights(cache, tmp_path, untrained_prior, monkeypatch):
    vae, renders = load_pipeline(untrained_prior).vae, load_renders(96, workers=1)
    monkeypatch.setattr(module, "BATCH", 40)
    encoded = load_latents(vae, renders, 0, tmp_path)
    assert encoded.shape == (192, 8, 16, 16) and encoded.dtype == torch.float16
    monkeypatch.setattr(module, "encode", None)
    assert torch.equal(load_latents(vae, renders, 0, tmp_path), encoded)
    monkeypatch.undo()
    with torch.no_grad():
        vae.encoder.conv_in.bias += 0.1
    assert not torch.equal(load_latents(vae, renders, 0, tmp_path), encoded)
    assert not torch.equal(load_latents(vae, renders, 1, tmp_path), encoded)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_mirror_image_is_encoded_from_the_mirrored_picture_over_the_same_background(cache, tmp_path, untrained_prior):
    """Without the object there is the background alone, whose latents are those of its mirror image."""
    vae, renders = load_pipeline(untrained_prior).vae, load_renders(96, workers=1)
    background = torch.tensor([[0.2, 0.5, 0.9]]).expand(96, 3)
    module_backgrounds = module.random_backgrounds
    try:
        module.random_backgrounds = lambda count, rng: background
        encoded = load_latents(vae, renders, 0, tmp_path)
    finally:
        module.random_backgrounds = module_backgrounds
    images = renders.images(torch.tensor([5]), background[:1])
    for row, image in ((5, images), (101, images.flip(3))):
        torch.testing.assert_close(encoded[row : row + 1].float(), encode(vae, image), atol=2e-3, rtol=2e-3)


def test_a_damaged_file_is_made_anew(cache, tmp_path, untrained_prior, caplog):
    vae, renders = load_pipeline(untrained_prior).vae, load_renders(96, workers=1)
    found = load_latents(vae, renders, 0, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"123")
    assert torch.equal(load_latents(vae, renders, 0, tmp_path), found)
    assert f"{file} is damaged" in caplog.text
