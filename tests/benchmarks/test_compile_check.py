import torch

from benchmarks.compile_check import main


def check(model, monkeypatch, capsys, form):
    monkeypatch.setattr(torch, "compile", form)
    main(["--model", str(model), "--repeats", "2", "--views", "2"])
    return capsys.readouterr().out


def test_what_is_right_is_timed_in_both_forms(untrained_prior, monkeypatch, capsys):
    calls = []

    def form(unet, **options):
        return lambda *args, **named: calls.append(unet) or unet(*args, **named)

    printed = check(untrained_prior, monkeypatch, capsys, form)
    assert "figure: compiled and verified in" in printed and "compiled over plain" in printed
    assert len(calls) == 4 + 4 * 3  # two checks of each form; of a step the prior's pass and two of phi's


def test_what_is_wrong_is_refused_and_said(untrained_prior, monkeypatch, capsys):
    def form(unet, **options):
        def wrong(*args, **named):
            out = unet(*args, **named)
            out.sample = 0.5 * out.sample + 0.5 * out.sample.detach()
            return out

        return wrong

    printed = check(untrained_prior, monkeypatch, capsys, form)
    assert printed.startswith("figure: refused after") and "gradient of x_t has a relative error of 0.48" in printed
    assert "over plain" not in printed
