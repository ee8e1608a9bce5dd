"""Histories and gradients as files: plots, text and tables (A-101)."""

import csv
from pathlib import Path

import pytest
import torch

from loopwright.tracking import (
    GradientPlotter,
    TrainingHistory,
    TrainingHistoryPlotter,
    TrainingHistoryWriter,
)


def history() -> TrainingHistory:
    found = TrainingHistory()
    for loss in (3.0, 2.0, float("nan")):
        found["loss"] = loss
        found["val/f1 score"] = {"macro": loss / 10}
    found["once"] = 1.0
    found["words"] = "a"
    found["words"] = "b"
    return found


def test_a101_plots_of_metrics_with_two_values(tmp_path: Path) -> None:
    saved = TrainingHistoryPlotter(tmp_path).generate_report(history(), "plots_epoch_2")
    assert saved == [
        ["plots_epoch_2/loss.png", f"{tmp_path}/plots_epoch_2/loss.png"],
        [
            "plots_epoch_2/val_f1_score_macro.png",
            f"{tmp_path}/plots_epoch_2/val_f1_score_macro.png",
        ],
    ]
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for _, path in saved)


def test_a101_all_plots_in_one_pdf(tmp_path: Path) -> None:
    plotter = TrainingHistoryPlotter(tmp_path)
    assert plotter.generate_report(history(), "plots", "pdf") == [
        ["plots.pdf", f"{tmp_path}/plots.pdf"]
    ]
    assert (tmp_path / "plots.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match="expected one of png, pdf"):
        plotter.generate_report(history(), file_format="svg")
    assert plotter.generate_report(TrainingHistory() + {"once": 1}, "none") == []
    assert not (tmp_path / "none").exists()


def epochs(writer: TrainingHistoryWriter, file_format: str) -> Path:
    """Write three epochs; `f1` is measured in the second and third, and `loss` not in the third."""
    found = TrainingHistory(has_validation=False)
    path = ""
    for epoch in range(3):
        if epoch < 2:
            found["loss"] = 3.0 - epoch
        if epoch > 0:
            found["f1"] = {"macro": epoch / 2}
        _, path = writer.generate_report(
            found, epoch, f"results.{file_format}", file_format=file_format
        )
    return Path(path)


@pytest.mark.parametrize(("file_format", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a101_tables_have_a_column_for_each_metric(
    file_format: str, delimiter: str, tmp_path: Path
) -> None:
    path = epochs(TrainingHistoryWriter(tmp_path), file_format)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter=delimiter))
    assert rows == [
        {"Epoch": "0", "loss": "3.0", "f1_macro": ""},
        {"Epoch": "1", "loss": "2.0", "f1_macro": "0.5"},
        {"Epoch": "2", "loss": "", "f1_macro": "1.0"},
    ]


def test_a101_text_has_a_block_for_each_epoch(tmp_path: Path) -> None:
    path = epochs(TrainingHistoryWriter(tmp_path), "txt")
    line = "=" * 28
    assert path.read_text().splitlines() == [
        *(line, "Epoch: 0", line, "loss:\t3.0", "", ""),
        *(line, "Epoch: 1", line, "loss:\t2.0", "f1_macro:\t0.5", "", ""),
        *(line, "Epoch: 2", line, "f1_macro:\t1.0", "", ""),
    ]


def test_a_writer_goes_on_after_its_rows(tmp_path: Path) -> None:
    first, second = TrainingHistoryWriter(tmp_path), TrainingHistoryWriter(tmp_path)
    found = TrainingHistory(has_validation=False) + {"loss": 2.0}
    first.generate_report(found, 0, "a.csv", file_format="csv")
    second.load_state_dict(first.state_dict())
    found["loss"] = 1.0
    name, path = second.generate_report(found, 1, "a.csv", file_format="csv")
    assert name == "a.csv"
    assert Path(path).read_text() == "Epoch,loss\n0,2.0\n1,1.0\n"


def test_a_writer_keeps_its_files_apart(tmp_path: Path) -> None:
    writer = TrainingHistoryWriter(tmp_path)
    found = TrainingHistory(has_validation=False) + {"loss": 2.0}
    for folder in ("one", "other"):
        name, path = writer.generate_report(found, 0, "a.csv", folder, file_format="csv")
        assert name == f"{folder}/a.csv"
        assert Path(path).read_text() == "Epoch,loss\n0,2.0\n"


def test_a_writer_knows_its_formats(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of txt, tsv, csv"):
        TrainingHistoryWriter(tmp_path).generate_report(history(), 0, "a", file_format="xls")
    with pytest.raises(ValueError, match="experiment_results_local_path is not set"):
        TrainingHistoryWriter().generate_report(history(), 0, "a.txt")


def test_gradients_are_drawn_layer_by_layer(tmp_path: Path) -> None:
    gradients = [torch.linspace(-1, 1, 50).numpy(), None, torch.ones(5).numpy()]
    plotter = GradientPlotter(tmp_path)
    names = [name for name, _ in plotter.generate_report(gradients, "epoch_0")]
    assert names == ["epoch_0/layer_0.png", "epoch_0/layer_2.png"]
    assert plotter.generate_report(gradients, "epoch_1", "pdf")[0][0] == "epoch_1.pdf"
