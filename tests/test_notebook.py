"""Training in a notebook: a run, an interrupt, and a run that goes on."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CELLS = (
    """
import torch
from torch import nn
from loopwright import Trainer, notebook_launcher
from loopwright.callbacks import TrainerCallback

torch.set_num_threads(1)
torch.manual_seed(0)
inputs, targets = torch.randn(12, 3), torch.randint(0, 2, (12,))
model = nn.Linear(3, 2)
trainer = Trainer(model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1))

class Interrupt(TrainerCallback):
    armed = False

    def on_train_step_end(self, trainer, **kwargs):
        if self.armed and trainer.progress.step == 4:
            raise KeyboardInterrupt

interrupt = Interrupt()
trainer.callback_handler.add_callback(interrupt)
notebook_launcher(trainer.train, ((inputs, targets), 2))
""",
    """
interrupt.armed = True
try:
    trainer.train((inputs, targets), 3, per_device_batch_size=4)
except KeyboardInterrupt:
    print("interrupted in epoch", trainer.run_history.current_epoch)
""",
    """
interrupt.armed = False
trainer.train((inputs, targets), 1, reset_run_history=False)
print("values", len(trainer.run_history.get_metric_values("train_loss_epoch")))
""",
)


def test_a_notebook_trains_is_interrupted_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra 'dev'")
    if find_spec("ipykernel") is None:  # not imported: this process is no notebook
        pytest.skip("needs ipykernel, of the extra 'dev'")
    import nbformat
    from jupyter_client.manager import KernelManager

    source = str(Path(__file__).parents[1] / "src")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")

    class SameInterpreter(KernelManager):  # type: ignore[misc]
        def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
            connection = ["-f", self.connection_file]
            return [sys.executable, "-m", "ipykernel_launcher", *connection]

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_manager_class=SameInterpreter, kernel_name="python3"
    )
    client.execute()
    printed = [
        "".join(output.get("text", "") for output in cell["outputs"] if output["name"] == "stdout")
        for cell in notebook.cells
    ]
    assert "Finishing training run" in printed[0]
    assert "interrupted in epoch 2" in printed[1]
    assert "values 2" in printed[2]
