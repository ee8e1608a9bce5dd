"""Pictures of what a model makes, which the report of its run shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from loopwright.callbacks.pictures import pictures_of
from loopwright.columns import columns_of
from loopwright.events import TrainerCallback
from loopwright.extras import require_installed
from loopwright.plots import new_axes, save_figure
from loopwright.trainers.autoencoders import AutoencoderInferrer
from loopwright.trainers.inferrer import Inferrer

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

__all__ = [
    "ImageTranslationsCallback",
    "LatentSpaceCallback",
    "ReconstructionsCallback",
    "SamplesCallback",
]


class _SeveralPictures(TrainerCallback):
    """Draws pictures of some samples after each epoch."""

    def __init__(self, num_samples: int = 8) -> None:
        require_installed(("matplotlib",), "plots")
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}; expected 1 or more.")
        self.num_samples = num_samples


class ReconstructionsCallback(_SeveralPictures):
    """Draws samples and what an autoencoder makes of them after each epoch.

    The samples are the first of the evaluation data, or of the training data where there is none;
    images of shape [height, width] or [1, height, width].

    Args:
        num_samples: How many.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        data = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.train_dataset
        samples = _first(data, self.num_samples)
        outputs = trainer.predict(samples, per_device_batch_size=self.num_samples)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        _draw(trainer, "reconstructions", [samples, torch.sigmoid(logits)])


class SamplesCallback(_SeveralPictures):
    """Draws samples that a model makes of random codes after each epoch, always of the same codes.

    The model has `decode`, which takes codes [samples, code_size] and returns logits, and
    `code_size`, as the autoencoders of `loopwright.models` have; or the inferrer of a `GanTrainer`
    has `generate`.

    Args:
        num_samples: How many.
        seed: Decides the codes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(self, num_samples: int = 8, seed: int = 0) -> None:
        super().__init__(num_samples)
        self.seed = seed

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        samples = _inferrer(trainer, "generate").generate(self.num_samples, seed=self.seed).cpu()
        _draw(trainer, "samples", [samples])


class ImageTranslationsCallback(_SeveralPictures):
    """Draws images, what is made of them, and the wanted images after each epoch.

    For a `CycleGanTrainer` the rows are images, what is made of them, and what comes of that in the
    other direction. The images are the first of the evaluation data, or of the training data where
    there is none.

    Args:
        num_samples: How many.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        data = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.train_dataset
        sources, inferrer = _first(data, self.num_samples), _inferrer(trainer, "translate")
        made = inferrer.translate(sources)
        both_ways = hasattr(inferrer, "reconstruct")
        last = inferrer.translate(made, "b_to_a") if both_ways else _first(data, len(made), part=1)
        _draw(trainer, "translations", [sources, made.cpu(), last.cpu()])


class LatentSpaceCallback(TrainerCallback):
    """Draws the codes of the evaluation data at the end of a run, coloured by their labels.

    Of codes with more than two numbers the two with the largest variance are drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(self) -> None:
        require_installed(("matplotlib",), "plots")

    def on_training_run_end(self, trainer: Trainer, **kwargs: Any) -> None:
        data = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.train_dataset
        samples, labels = _first(data, 2000), _labels(data, 2000)
        codes = _inferrer(trainer, "encode").encode(samples).cpu()
        shown = codes[:, codes.var(dim=0).argsort(descending=True)[:2].sort().values]
        ax = new_axes((4.8, 4.8))
        if labels is None:
            ax.scatter(*shown.T.numpy(), s=6)
        else:
            points = ax.scatter(*shown.T.numpy(), c=labels, s=6, cmap="tab10")
            ax.legend(*points.legend_elements(), fontsize=7)
        save_figure(ax, pictures_of(trainer) / "latent-space.png")


def _inferrer(trainer: Trainer, method: str) -> Any:
    """Return what uses the model of a trainer, and has this method.

    Raises:
        ValueError: It has not.
    """
    kind: type[Inferrer] = getattr(trainer, "inferrer_class", AutoencoderInferrer)
    if not hasattr(kind, method):
        raise ValueError(
            f"{kind.__name__}, which draws for a {type(trainer).__name__}, has no {method!r}. "
            "Choose another callback for its pictures."
        )
    return kind.of(trainer.get_model())


def _draw(trainer: Trainer, name: str, rows: list[torch.Tensor]) -> None:
    """Draw rows of images, values from 0 to 1, into a picture named for the epoch."""
    images = [row[:, None] if row.ndim == 3 else row for row in rows]
    if any(row.ndim != 4 or row.shape[1] not in (1, 3) for row in images):
        raise ValueError(
            f"A sample has the shape {tuple(rows[0].shape[1:])}; pictures are drawn of images of "
            "shape [height, width], [1, height, width] or [3, height, width]."
        )
    ax = new_axes((0.8 * len(rows[0]), 0.9 * len(rows)))
    channels = max(row.shape[1] for row in images)
    strips = [torch.cat(list(row.expand(-1, channels, -1, -1)), dim=2) for row in images]
    grid = torch.cat(strips, dim=1).clamp(0, 1).permute(1, 2, 0).squeeze(2)
    ax.imshow(grid.numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_axis_off()
    epoch = trainer.run_history.current_epoch
    save_figure(ax, pictures_of(trainer) / f"{name}-{epoch:04d}.png")


def _first(data: Any, count: int, *, part: int = 0) -> torch.Tensor:
    """Return a part of the first samples, or them where they have no parts."""
    if (columns := columns_of(data)) is not None:
        tensor = columns.tensors[part]
        return tensor[:count] if columns.rows is None else tensor[columns.rows[:count]]
    samples = [data[index] for index in range(min(count, len(data)))]
    parts = [each[part] if isinstance(each, (list, tuple)) else each for each in samples]
    return torch.stack(parts)


def _labels(data: Any, count: int) -> Any:
    """Return the classes of samples; None where there are none."""
    columns = columns_of(data)
    if columns is None or len(columns.tensors) < 2 or columns.tensors[1].is_floating_point():
        return None
    return _first(data, count, part=1).numpy()
