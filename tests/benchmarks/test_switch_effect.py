from benchmarks.switch_effect import SWITCHES, main


def test_what_changes_nothing_has_a_cosine_of_one_and_what_changes_phi_has_not(untrained_prior, capsys):
    main(["--model", str(untrained_prior)])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    cosines = {name: (float(images), float(phi)) for name, images, phi in rows}
    assert list(cosines) == list(SWITCHES)
    assert cosines["checkpointing"] == cosines["slicing"] == cosines["channels last"] == (1.0, 1.0)
    assert cosines["shared forward"][0] == 1.0 and cosines["shared forward"][1] < 0.999, "at another t"
    assert 0.9 < cosines["bfloat16"][0] < 1.0
