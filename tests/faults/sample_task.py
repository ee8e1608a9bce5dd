"""Runs a sample of the document as a program; arguments are those of `main` as JSON."""

import json
import sys
from typing import Any

import torch
from samples import namespace, sample

from faults.runner import digest
from loopwright.loop_callbacks import ModelLoadContinueTraining
from loopwright.seed import set_seed


def main(loop: str, continues: str | None) -> dict[str, Any]:
    """Run a sample as written, or let its loop go on with what is saved under another time."""
    torch.set_num_threads(1)
    set_seed(1 if continues is None else 77)
    names, code = namespace(), sample(loop)
    if continues is not None:
        names["saved"] = ModelLoadContinueTraining(continues)
        code = code.replace("fit(num_epochs=10)", "fit(num_epochs=10, callbacks=[saved])")
    exec(code, names)
    trained = names["tl"]
    package = getattr(trained, "test_result_package", None)
    return {
        "weights": digest(trained.model.state_dict()),
        "optimizer": digest(trained.optimizer.state_dict()),
        "history": trained.train_history.get_train_history(),
        "results": package and str(package.get_results()["Accuracy"]),
    }


if __name__ == "__main__":
    print(json.dumps(main(*json.loads(sys.argv[1]))))
