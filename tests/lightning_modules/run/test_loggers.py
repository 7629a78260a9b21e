import csv

from lightning_modules.run.loggers import MetricsFile


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_lies_on_the_disk_as_soon_as_it_is_logged(tmp_path):
    log = MetricsFile(tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is written before the first row"
    for step in range(3):
        log.log_metrics({"loss": step / 2}, step)
        assert [(int(r["step"]), float(r["loss"])) for r in rows(tmp_path)] == [(s, s / 2) for s in range(step + 1)]


def test_a_new_metric_is_a_new_column(tmp_path):
    log = MetricsFile(tmp_path)
    log.log_metrics({"loss": 1.0}, 0)
    log.log_metrics({"other": 2.0}, 1)
    log.log_metrics({"loss": 3.0}, 2)
    assert rows(tmp_path) == [
        {"step": "0", "loss": "1.0", "other": ""},
        {"step": "1", "loss": "", "other": "2.0"},
        {"step": "2", "loss": "3.0", "other": ""},
    ]


def test_a_row_of_an_earlier_step_leaves_the_later_ones(tmp_path):
    for step in (4, 0):  # as validation without training logs it
        MetricsFile(tmp_path).log_metrics({"loss": 1.0}, step)
    assert [row["step"] for row in rows(tmp_path)] == ["4", "0"]


def test_a_resumed_run_appends_to_the_file_without_the_steps_it_repeats(tmp_path):
    first = MetricsFile(tmp_path)
    for step in range(6):
        first.log_metrics({"loss": 1.0, "old": 0.0}, step)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("6,1.")  # a kill in the middle of a line
    second = MetricsFile(tmp_path)
    second.drop_from(4)
    for step in (4, 5):
        second.log_metrics({"loss": 2.0, "new": 5.0}, step)
    assert [(r["step"], r["loss"], r["old"], r["new"]) for r in rows(tmp_path)] == [
        *((str(step), "1.0", "0.0", "") for step in range(4)),
        *((str(step), "2.0", "", "5.0") for step in (4, 5)),
    ]
