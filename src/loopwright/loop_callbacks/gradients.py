"""Clipping gradients, and seeing how they are distributed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loopwright.errors import NotSupportedError
from loopwright.loop_callbacks.base import AbstractCallback, AbstractExperimentCallback
from loopwright.loop_callbacks.history import experiment_folder
from loopwright.results.arrays import to_array
from loopwright.tracking.history_reports import PLOT_FORMATS, GradientPlotter, check_format
from loopwright.tracking.uploads import Uploader

Layers = Callable[[Any], Sequence[Any]]
"""A function of the model that returns layers with a `weight`."""


@dataclass(frozen=True)
class GradientStats:
    """Describes the gradient of one layer."""

    mean: float
    std: float
    """The standard deviation."""
    zero_share: float
    """The share of entries that are 0."""


def gradient_stats(gradient: torch.Tensor) -> GradientStats:
    """Return mean, standard deviation (over all entries) and share of zeros; reads the device."""
    values = gradient.detach().float()
    found = torch.stack([values.mean(), values.std(correction=0), (values == 0).float().mean()])
    return GradientStats(*found.tolist())


class GradientCallbackBase(AbstractCallback):
    """Is the base of callbacks that use gradients: it lets the loop call the two methods for them.

    It takes what `AbstractCallback` takes.
    """

    def on_train_loop_registration(self) -> None:
        self.train_loop_obj.grad_cb_used = True

    def unscaled_parameters(self, optimizer_idx: int) -> list[nn.Parameter]:
        """Return the parameters of an optimizer, with their gradients free of loss scaling."""
        loop = self.train_loop_obj
        optimizers = getattr(loop.optimizer, "optimizer_list", [loop.optimizer])
        optimizer = optimizers[optimizer_idx]
        _unscale(loop.amp_scaler, optimizer, len(optimizers))
        groups: Iterable[Any] = getattr(optimizer, "param_groups", ())
        found = [parameter for group in groups for parameter in group["params"]]
        return found or list(loop.model.parameters())


def _unscale(scaler: Any, optimizer: Any, num_optimizers: int) -> None:
    """Take the scale of mixed precision off the gradients, once per update."""
    if not scaler.is_enabled():
        return
    if num_optimizers > 1:
        raise NotSupportedError(
            "Clipping with use_amp is not available for several optimizers. Clip in get_loss, or "
            "train without use_amp."
        )
    try:
        scaler.unscale_(optimizer)
    except RuntimeError as error:  # another callback has done it in this update
        if "already been called" not in str(error):
            raise


class GradValueClip(GradientCallbackBase):
    """Clips each entry of the gradients before the optimizer's step.

    Args:
        max_grad_value: The largest absolute value.
    """

    def __init__(self, max_grad_value: float) -> None:
        super().__init__("Clipping of gradient values")
        self.max_grad_value = max_grad_value

    def on_after_gradient_update(self, optimizer_idx: int) -> None:
        nn.utils.clip_grad_value_(self.unscaled_parameters(optimizer_idx), self.max_grad_value)


class GradNormClip(GradientCallbackBase):
    """Scales the whole gradient down to a norm before the optimizer's step.

    Args:
        max_grad_norm: The largest norm.
        **kwargs: Arguments of `torch.nn.utils.clip_grad_norm_`.
    """

    def __init__(self, max_grad_norm: float, **kwargs: Any) -> None:
        super().__init__("Clipping of the gradient norm")
        self.max_grad_norm = max_grad_norm
        self.kwargs = kwargs

    def on_after_gradient_update(self, optimizer_idx: int) -> None:
        parameters = self.unscaled_parameters(optimizer_idx)
        nn.utils.clip_grad_norm_(parameters, self.max_grad_norm, **self.kwargs)


class GradientStatsPrint(GradientCallbackBase):
    """Prints mean, standard deviation and share of zeros of layers' gradients.

    Args:
        model_layers_extract_def: Gets the model and returns the layers.
        stats_eval_freq: Every so many updates of the optimizer.
    """

    def __init__(self, model_layers_extract_def: Layers, stats_eval_freq: int = 1) -> None:
        super().__init__("Statistics of gradients", device_idx_execution=0)
        if stats_eval_freq < 1:
            raise ValueError(f"stats_eval_freq is {stats_eval_freq}; expected 1 or more.")
        self.model_layers_extract_def = model_layers_extract_def
        self.stats_eval_freq = stats_eval_freq
        self.weights_update_counter = 0

    def on_after_gradient_update(self, optimizer_idx: int) -> None:
        if optimizer_idx != 0:
            return
        self.weights_update_counter += 1
        if self.weights_update_counter % self.stats_eval_freq == 0:
            self.gradients_report()

    def gradients_report(self) -> None:
        """Print one line for each layer."""
        print(f"Gradients of update {self.weights_update_counter}:")
        layers = self.model_layers_extract_def(self.train_loop_obj.model)
        for index, layer in enumerate(layers):
            if layer.weight.grad is None:
                print(f"    layer {index}: no gradient")
                continue
            found = gradient_stats(layer.weight.grad)
            print(
                f"    layer {index}: mean {found.mean:.4g}, standard deviation {found.std:.4g}, "
                f"zeros {found.zero_share:.2%}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the count of updates, for checkpoints."""
        return {"weights_update_counter": self.weights_update_counter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from what `state_dict` returned."""
        self.weights_update_counter = state["weights_update_counter"]


class GradDistributionPlot(AbstractExperimentCallback):
    """Draws the distribution of layers' gradients in the last update of each epoch.

    Files are `results/grad_plots_dir_name/epoch_N/layer_I.png`, or one `pdf` per epoch.

    Args:
        model_layers_extract_def: Gets the model and returns the layers.
        grad_plots_dir_name: The folder below `results/`.
        file_format: "png" or "pdf".
        **kwargs: The details of the experiment, as in `AbstractExperimentCallback`.
    """

    def __init__(
        self,
        model_layers_extract_def: Layers,
        grad_plots_dir_name: str = "grad_distribution",
        file_format: str = "png",
        **kwargs: Any,
    ) -> None:
        check_format(file_format, PLOT_FORMATS)
        super().__init__("Plot of gradients", device_idx_execution=0, **kwargs)
        self.model_layers_extract_def = model_layers_extract_def
        self.grad_plots_dir_name = grad_plots_dir_name
        self.file_format = file_format
        self.uploader: Uploader | None = None
        self._gradients: list[torch.Tensor | None] = []

    def on_train_loop_registration(self) -> None:
        self.try_infer_experiment_details(infer_cloud_details=True)
        self.uploader = self.make_uploader()
        self.train_loop_obj.grad_cb_used = True

    def on_batch_begin(self) -> None:
        self._gradients = []

    def on_after_gradient_update(self, optimizer_idx: int) -> None:
        """Hold on to the gradients, which the loop drops after the step: nothing is copied."""
        layers = self.model_layers_extract_def(self.train_loop_obj.model)
        fresh = [layer.weight.grad for layer in layers]
        held = self._gradients or [None] * len(fresh)
        self._gradients = [
            new if new is not None else old for new, old in zip(fresh, held, strict=True)
        ]

    def on_epoch_end(self) -> None:
        self.gradient_plot()

    def gradient_plot(self) -> None:
        """Draw the gradients of the last update."""
        folder = experiment_folder(self)
        gradients = [None if g is None else to_array(g).reshape(-1) for g in self._gradients]
        self._gradients = []
        plotter = GradientPlotter(folder.results / self.grad_plots_dir_name)
        name = f"epoch_{self.train_loop_obj.epoch}"
        for _, path in plotter.generate_report(gradients, name, self.file_format):
            if self.uploader is not None:
                self.uploader.upload(Path(path), folder.relative(path))
