import pytest
import torch

from toybox.judges.views import ViewClassifier, sector_examples, train_view_classifier
from toybox.prior import gates as module
from toybox.prior import metrics
from toybox.prior.banks import truth_bank
from toybox.prior.data import labels
from toybox.prior.gates import Sizes, Table, main
from toybox.world.captions import caption, mirrored
from toybox.world.objects import OBJECTS, WITH_FRONT
from toybox.world.renders import load_renders
from vsd.prior import load_pipeline

TINY = Sizes(train=96, held_out=96, judge_steps=2, images=32, colours=1, samples=1, bank=2, steps=2)


def test_an_untrained_prior_fails_the_gates(untrained_prior, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "QUICK", TINY)
    with pytest.raises(SystemExit) as ended:
        main(["--prior", str(untrained_prior), "--out", str(tmp_path), "--quick"])
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    for figure in (
        "autoencoder PSNR",
        "wrong view, t = 850",
        "wrong object, t = 300",
        "wrong colour, t = 600",
        "all files of the prior",
    ):
        (line,) = [line for line in printed.splitlines() if figure in line]
        assert line.endswith("MISSED")
    assert (tmp_path / "toybox_samples.png").stat().st_size > 10_000


def test_the_shipped_prior_knows_its_words_by_the_quick_gates(cache, tmp_path, capsys):
    """Those of the figures that hold on few samples, with and without a goal."""
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--quick"])
    lines = capsys.readouterr().out.splitlines()
    table = {line[:52].strip(): line[52:].split() for line in lines[1:-1]}
    assert all("MISSED" not in words for name, words in table.items() if "rise" in name or "all files" in name)
    assert float(table["autoencoder PSNR, dB"][0]) > 31
    assert float(table["nearest-instance L1 over real's, mean of prompts"][0]) < 1.3
    for word in ("object", "colour"):
        assert float(table[f"image tower's retrieval, {word}"][0]) > 90
    seen = [float(words[0]) for name, words in table.items() if name.startswith("view seen")]
    assert len(seen) == 6 and sum(seen) / 6 > 75, "eight views by chance: 12.5"


def test_a_missing_prior_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--prior", str(tmp_path / "none")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().endswith("name another")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--guidance-scale", "0.5"], "--guidance-scale: 0.5; a finite number of at least 1"),
        (["--rescale", "1.5"], "--rescale: 1.5 is not in [0, 1]"),
    ],
)
def test_a_scale_out_of_range_is_named(options, named, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*options, "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_samples_are_drawn_at_the_scale_that_was_asked_for(untrained_prior, cache, tmp_path, capsys, monkeypatch):
    def sample(pipeline, prompts, guidance_scale, steps, rescale):
        raise KeyError(guidance_scale, rescale)

    monkeypatch.setattr(module, "QUICK", TINY)
    monkeypatch.setattr(module.metrics, "sample", sample)
    command = ["--prior", str(untrained_prior), "--out", str(tmp_path), "--quick"]
    with pytest.raises(KeyError) as asked:
        main([*command, "--guidance-scale", "1.5", "--rescale", "0"])
    assert asked.value.args == (1.5, 0.0)
    with pytest.raises(KeyError) as asked:
        main(command)
    assert asked.value.args == (module.GUIDANCE, module.RESCALE)


def test_the_table_compares_with_its_goals(capsys):
    table = Table()
    table.row("high enough", 0.5, ">= 0.5")
    table.row("too low", 0.49, ">= 0.5")
    table.row("low enough", 1.5, "<= 1.5")
    table.row("too high", 1.51, "<= 1.5")
    table.row("no goal", 9.0)
    table.row("not a number", float("nan"), ">= 0.5")
    assert table.missed == ["too low", "too high", "not a number"]


def test_frechet_distance_of_known_gaussians():
    """Closed form: |m1 - m2|^2 + sum (s1 - s2)^2 for diagonal covariances."""
    base = torch.randn(200_000, 3, dtype=torch.float64)
    base = (base - base.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(base.T)).T)
    a = base * torch.tensor([1.0, 2.0, 3.0])
    b = base * torch.tensor([2.0, 2.0, 1.0]) + torch.tensor([0.5, 0.0, 1.0])
    assert metrics.frechet_distance(a, b) == pytest.approx(0.25 + 1 + 1 + 4, rel=1e-6)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_nearest_instance_distance_finds_the_instance_itself_over_any_background():
    def bank(name):
        return (truth_bank(name, "red", 2, 6).float() / 255).split([3, 1], 1)

    rgb, alpha = bank("car")
    background = torch.tensor([0.2, 0.5, 0.9])[:, None, None]
    image = 2 * (rgb[3] + (1 - alpha[3]) * background) - 1
    assert metrics.nearest_instance_l1(image, rgb, alpha) < 1e-3
    without = metrics.nearest_instance_l1(image, torch.cat([rgb[:3], rgb[4:]]), torch.cat([alpha[:3], alpha[4:]]))
    duck = metrics.nearest_instance_l1(image, *bank("duck"))
    assert 1e-3 < without < duck
    torch.testing.assert_close(metrics.background_of(image[None])[0], background[:, 0, 0], atol=1e-6, rtol=0)


def test_the_view_judge_learns_from_renders_with_a_front_alone(cache):
    renders = load_renders(960)
    examples = sector_examples(renders)
    names = {list(OBJECTS)[i] for i in renders.name[examples]}
    assert names == set(WITH_FRONT) and renders.cameras.elevation[examples].max() <= 60
    network = train_view_classifier(renders, steps=2)
    again = train_view_classifier(renders, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert not network.training and network(torch.zeros(2, 3, 64, 64)).shape == (2, 8)
    assert isinstance(network, ViewClassifier)


def test_eps_error_of_v_prediction_matches_the_definition(untrained_prior, cache):
    """With v = alpha eps - sigma x0 predicted as zero, eps_hat = sigma x_t, whose error is known in closed form."""
    pipeline = load_pipeline(untrained_prior)
    for parameter in pipeline.unet.conv_out.parameters():
        parameter.data.zero_()
    rise = metrics.wrong_word_rise(pipeline, load_renders(96), torch.arange(32), [600, 850])
    assert rise == 2 * [{"object": 0, "colour": 0, "view": 0}], "a network that ignores the caption shows no rise"


@torch.no_grad()
def test_the_shipped_prior_tells_left_from_right(cache):
    """On held-out renders at t = 600 the error of the mirrored caption is larger, for most by far."""
    pipeline = load_pipeline()
    renders = load_renders(384, held_out=True, workers=1)
    rows = list(zip(*labels(renders, torch.arange(len(renders))), strict=True))
    sided = [i for i, (n, _, v) in enumerate(rows) if n in WITH_FRONT and ("left" in v or "right" in v)][:64]
    captions = [caption(*rows[i]) for i in sided]
    images = renders.images(torch.tensor(sided), torch.ones(len(sided), 3))
    latents = pipeline.vae.encode(images).latent_dist.mode() * pipeline.vae.config.scaling_factor
    noise = torch.randn(latents.shape)
    alphabar = pipeline.scheduler.alphas_cumprod[600]
    noisy, target = alphabar.sqrt() * latents + (1 - alphabar).sqrt() * noise, alphabar.sqrt() * noise
    target = target - (1 - alphabar).sqrt() * latents
    right, wrong = (
        (pipeline.unet(noisy, 600, metrics.encode_text(pipeline, texts)[0]).sample - target).square().mean((1, 2, 3))
        for texts in (captions, [mirrored(text) for text in captions])
    )
    assert (wrong > right).float().mean() > 0.8 and wrong.mean() > 1.1 * right.mean()


def test_the_shipped_priors_last_step_is_pure_noise():
    assert load_pipeline().scheduler.alphas_cumprod[-1] == 0
