"""Texts that a model makes, which the report of its run shows, and how many of them are right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from loopwright.callbacks.pictures import pictures_of
from loopwright.columns import as_dataset
from loopwright.datasets.pairs import BEGIN, END, PADDING
from loopwright.events import TrainerCallback
from loopwright.trainers.language_models import LanguageModelInferrer
from loopwright.trainers.seq2seq import Seq2SeqInferrer
from loopwright.trainers.tokens import decode_texts, encode_texts

if TYPE_CHECKING:
    from loopwright.trainer import Trainer

__all__ = ["ContinuationsCallback", "ExactMatchCallback", "TranslationsCallback"]


class ExactMatchCallback(TrainerCallback):
    """Records `exact_match` in each evaluation: the share of samples that are translated exactly.

    Every sample is translated by greedy search, which costs more than the loss.

    Args:
        begin: The token before a target.
        end: The token after a target.
        padding: The token that fills targets up.
    """

    records: ClassVar[tuple[str, ...]] = ("exact_match",)
    """The metrics of an evaluation that this adds."""

    def __init__(self, begin: int = BEGIN, end: int = END, padding: int = PADDING) -> None:
        self.special = {"begin": begin, "end": end, "padding": padding}
        self._num_right = self._num_samples = 0

    def on_eval_epoch_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self._num_right = self._num_samples = 0

    def on_eval_step_end(self, trainer: Trainer, batch: Any, **kwargs: Any) -> None:
        targets = batch[1][:, 1:]
        inferrer = Seq2SeqInferrer.of(trainer.get_model(), **self.special)
        found = inferrer.translate(batch[0], max_length=targets.shape[1])
        self._num_right += int((found == targets).all(dim=1).sum())
        self._num_samples += len(targets)

    def on_eval_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        value = self._num_right / max(self._num_samples, 1)
        trainer.run_history.update_metric("exact_match", value)


class TranslationsCallback(TrainerCallback):
    """Writes sources with their targets and what a model makes of them, after each epoch.

    The samples are the first of the evaluation data, or of the training data where there is none.

    Args:
        num_samples: How many.
        source_names: What the tokens of sources stand for; a declared run knows.
        target_names: What the tokens of targets stand for, likewise.
        begin: The token before a target.
        end: The token after a target.
        padding: The token that fills up.
    """

    def __init__(
        self,
        num_samples: int = 8,
        source_names: Sequence[str] = (),
        target_names: Sequence[str] = (),
        begin: int = BEGIN,
        end: int = END,
        padding: int = PADDING,
    ) -> None:
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}; expected 1 or more.")
        self.num_samples = num_samples
        self.source_names, self.target_names = source_names, target_names
        self.special = {"begin": begin, "end": end, "padding": padding}

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        """Refuse a run without a folder."""
        pictures_of(trainer)

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        sources, targets = _first(trainer, self.num_samples)
        inferrer = Seq2SeqInferrer.of(trainer.get_model(), **self.special)
        found = inferrer.translate(sources, max_length=targets.shape[1] - 1)
        left_out = self.special.values()
        columns = (
            _texts(sources, self.source_names, [self.special["padding"]]),
            _texts(found, self.target_names, left_out),
            _texts(targets, self.target_names, left_out),
        )
        lines = [
            f"{source} → {translated}" + ("" if translated == target else f"  (expected {target})")
            for source, translated, target in zip(*columns, strict=True)
        ]
        _write(trainer, "translations", "\n".join(lines))


class ContinuationsCallback(TrainerCallback):
    """Writes how a language model goes on after a text, after each epoch, with the same draws.

    Args:
        prompt: The text; the beginning of the evaluation data, or of the training data where there
            is none, if it is left out.
        count: Tokens to add.
        temperature: Divides the logits; 0 takes the likeliest token each time.
        top_k: How many of the likeliest tokens are drawn from; all where it is None.
        seed: Decides the draws.
        characters: What the tokens stand for; a declared run knows.

    Raises:
        ValueError: `count` is less than 1, or `temperature` less than 0.
    """

    def __init__(
        self,
        prompt: str | None = None,
        count: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        seed: int = 0,
        characters: Sequence[str] = (),
    ) -> None:
        if count < 1:
            raise ValueError(f"count is {count}, expected 1 or more")
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}, expected 0 or more")
        self.prompt = prompt
        self.options = {"temperature": temperature, "top_k": top_k, "seed": seed}
        self.count = count
        self.characters = characters

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        """Refuse a prompt that is not made of the tokens, and a run without a folder."""
        pictures_of(trainer)
        if self.prompt is not None:
            encode_texts([self.prompt], self.characters)

    def on_training_run_epoch_end(self, trainer: Trainer, **kwargs: Any) -> None:
        inferrer = LanguageModelInferrer.of(trainer.get_model(), characters=self.characters)
        if self.prompt is None:
            tokens = _first(trainer, 1)[0][:, :16]
            prompt = _texts(tokens, self.characters)[0]
            following = inferrer.generate(tokens, self.count, **self.options)  # type: ignore[arg-type]
            text = _texts(following, self.characters)[0]
        else:
            prompt = self.prompt
            text = inferrer.generate(prompt, self.count, **self.options)  # type: ignore[arg-type]
        _write(trainer, "continuation", f"{prompt}|{text}")


def _first(trainer: Trainer, count: int) -> tuple[Tensor, Tensor]:
    """Return the first inputs and targets of the evaluation data, else of the training data."""
    data = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.train_dataset
    data = as_dataset(data)
    inputs, targets = zip(*(data[index] for index in range(min(count, len(data)))), strict=True)
    return torch.stack(inputs), torch.stack(targets)


def _texts(tokens: Tensor, names: Sequence[str], special: Iterable[int] = ()) -> list[str]:
    """Return tokens as texts, or as numbers where there are no names."""
    if names:
        return decode_texts(tokens, names, special)
    left_out = set(special)
    return [" ".join(str(t) for t in row if t not in left_out) for row in tokens.tolist()]


def _write(trainer: Trainer, name: str, text: str) -> None:
    path = pictures_of(trainer) / f"{name}-{trainer.run_history.current_epoch:04d}.txt"
    path.write_text(text + "\n", encoding="utf-8")
