import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from gallery.curves import LOG_FROM, POINTS, Curve, chart, read_curves, title


def drawn(curve):
    """The y coordinates of the curve's raw line, downwards."""
    line = re.search(r'class="raw" points="([^"]*)"', chart(curve, "nerf"))[1]
    return [tuple(map(float, point.split(","))) for point in line.split()]


def test_a_column_is_a_curve_without_its_empty_cells(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,train/guidance,val/iou0,epoch\n19,2.5,,0\n39,1.5,,0\n39,,0.9,0\n")
    curves, notes = read_curves(file)
    assert notes == []
    assert curves == [Curve("train/guidance", [19, 39], [2.5, 1.5]), Curve("val/iou0", [39], [0.9])]


@pytest.mark.parametrize(
    ("line", "why"),
    [("39", "half a line"), ("39,1,2,3", "too long"), ("x,1,2", "no step"), ("39,1.5.1,2", "no number")],
)
def test_a_damaged_line_is_left_out_and_told(tmp_path, line, why):
    file = tmp_path / "metrics.csv"
    file.write_text(f"step,loss,other\n19,2.5,1\n{line}\n59,0.5,1\n")
    curves, notes = read_curves(file)
    assert curves[0] == Curve("loss", [19, 59], [2.5, 0.5]), why
    assert notes == ["metrics.csv: 1 damaged line left out."]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe\x00", "metrics.csv cannot be read: "),
        (b"", "it has no column 'step'"),
        (b"loss\n1\n", "it has no column 'step'"),
    ],
)
def test_a_damaged_file_has_no_curves_and_is_told(tmp_path, content, told):
    file = tmp_path / "metrics.csv"
    file.write_bytes(content)
    curves, (note,) = read_curves(file)
    assert curves == [] and told in note


def test_values_that_are_not_finite_are_counted_and_shown(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,loss\n1,1\n2,nan\n3,inf\n4,2\n")
    (curve,), notes = read_curves(file)
    assert curve == Curve("loss", [1, 4], [1.0, 2.0], lost=2) and notes == []
    assert "2 values not finite" in chart(curve, "nerf")


def test_the_line_goes_from_the_first_to_the_last_value():
    (x0, y0), (x1, y1), (x2, y2) = drawn(Curve("loss", [0, 50, 100], [4.0, 3.0, 2.0]))
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1) and y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert y0 < y1 < y2, "a larger value stands higher"


def test_a_wide_range_has_a_logarithmic_axis():
    assert LOG_FROM < 100
    curve = Curve("loss", [0, 1, 2], [100.0, 10.0, 1.0])
    (_, y0), (_, y1), (_, y2) = drawn(curve)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1) and "logarithmic" in chart(curve, "nerf")


def test_a_constant_curve_is_a_line_in_the_middle():
    assert len({y for _, y in drawn(Curve("loss", [0, 1, 2], [3.0, 3.0, 3.0]))}) == 1


def test_a_long_curve_is_thinned_to_means():
    points = drawn(Curve("loss", list(range(10_000)), [float(i % 2) for i in range(10_000)]))
    assert POINTS / 2 < len(points) <= POINTS
    assert len({y for _, y in points}) == 1, "every point is the mean of as many zeros as ones"


@pytest.mark.parametrize(
    ("curve", "told"),
    [
        (Curve("val/iou0", [900], [0.93]), "0.93 at step 900, the only value"),
        (Curve("loss", [], [], 3), "no finite value; 3 values not finite"),
    ],
)
def test_fewer_than_two_values_are_said_in_words(curve, told):
    assert told in chart(curve, "nerf") and "<svg" not in chart(curve, "nerf")


def test_a_chart_is_well_formed_and_says_what_it_shows():
    figure = ElementTree.fromstring(chart(Curve("train/<&>_score_loss", [1, 2], [1.0, 2.0]), "<nerf>"))
    picture = figure.find("svg")
    assert picture.get("role") == "img"
    assert picture.get("aria-label") == "<nerf>: phi's loss (<&>), from 1 to 2 in 2 steps"
    assert all(math.isfinite(float(n)) for n in re.findall(r"-?[\d.]+", picture.find("polyline").get("points")))


def test_the_losses_have_names_in_words():
    assert title("train/vsd_score_loss") == "phi's loss (vsd)"
    assert title("train/vsd_phi_ratio") == "phi's error over the prior's, good below 1 (vsd)"
    assert title("train/vsd_phi_calibration") == "phi's calibration, right at 1 (vsd)"
    assert title("train/sds_loss") == "loss (sds)"
    assert title("train/guidance") == "loss of the guidance"
    assert title("val/iou0") == "val/iou0"
