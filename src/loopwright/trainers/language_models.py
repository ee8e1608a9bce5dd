"""Training models of which token comes next, and going on after texts with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from loopwright.events import TrainerCallback
from loopwright.history import LossTracker
from loopwright.trainer import Trainer
from loopwright.trainers.inferrer import Inferrer
from loopwright.trainers.tokens import (
    count_tokens,
    decode_texts,
    encode_texts,
    token_cross_entropy,
)


def perplexity(loss: float) -> float:
    """Return e to the power of a mean loss over tokens in nats; infinity where that is too large.

    Args:
        loss: The mean.
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


class LanguageModelTrainer(Trainer):
    """Trains a model to give, at each place of a sequence, the token that comes next.

    A batch is tokens and, at each place, the token that follows: two tensors [N, length], int64.
    The model gives logits [N, vocabulary, length]. Without a `loss_func` the loss is
    `token_cross_entropy`. Each evaluation records `perplexity` too, of that cross entropy whatever
    the loss is.

    Args:
        padding: The token that is not counted where it follows, such as -100; None counts all, and
            torch refuses what is no token.
        args: Those of `Trainer`.
        options: Likewise.
    """

    records: ClassVar[tuple[str, ...]] = ("perplexity",)
    """The metrics of an evaluation beside the loss."""

    def __init__(
        self,
        model: Any,
        loss_func: Any,
        optimizer: Any,
        *args: Any,
        padding: int | None = None,
        **options: Any,
    ) -> None:
        self.padding = padding
        super().__init__(model, loss_func, optimizer, *args, **options)
        if loss_func is not None:
            self.callback_handler.add_callback(_RecordPerplexity(padding))

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        tokens, following = batch[0], batch[1]
        logits = self.model(tokens)
        if self.loss_func is None:
            loss = token_cross_entropy(logits, following, self.padding)
        else:
            loss = self.loss_func(logits, following)
        no_padding = self.padding is None
        count = following.numel() if no_padding else count_tokens(following, self.padding)
        return {
            "loss": loss,
            "model_outputs": logits,
            "batch_size": len(tokens),
            "num_items_in_batch": count,
        }

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        return self.calculate_train_batch_loss(batch)

    def eval_epoch_end(self) -> None:
        """Record the perplexity."""
        if self.loss_func is None:
            self.run_history.update_metric("perplexity", perplexity(self._loss_tracker.average))


class _RecordPerplexity(TrainerCallback):
    """Records the perplexity where the loss says nothing of it.

    Args:
        padding: As in `LanguageModelTrainer`.
    """

    def __init__(self, padding: int | None) -> None:
        self.padding = padding
        self._nats = LossTracker()

    def on_eval_epoch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._nats.reset()

    def on_eval_step_end(
        self, trainer: Trainer, batch: Any, batch_output: Any, **kwargs: Any
    ) -> None:
        loss = token_cross_entropy(batch_output["model_outputs"], batch[1], self.padding)
        self._nats.update(loss, batch_output["num_items_in_batch"])

    def on_eval_epoch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.run_history.update_metric("perplexity", perplexity(self._nats.average))


class LanguageModelInferrer(Inferrer):
    """Goes on after texts with a trained language model.

    Args:
        model: The model, with `generate`, as `loopwright.models.gpt` makes.
        device_id: N for cuda:N, below 0 for the CPU.
        characters: What the tokens stand for, for those who give texts.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        device_id: int = -1,
        *,
        characters: Sequence[str] = (),
    ) -> None:
        super().__init__(model, device_id)
        self.characters = characters

    def generate(
        self,
        prompt: Tensor | str,
        count: int = 200,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Return what follows a text.

        Args:
            prompt: Tokens [N, length], or a text.
            count: Tokens to add.
            temperature: Divides the logits; 0 takes the likeliest token each time.
            top_k: How many of the likeliest tokens are drawn from (Fan et al. 2018,
                https://arxiv.org/abs/1805.04833); all where it is None.
            seed: Decides the draws; without it they come from torch's global generator.

        Returns:
            Tokens [N, count] on the device; a text for a text.

        Raises:
            ValueError: A number is out of its range, the prompt is empty, or it has a character
                that is not known.
        """
        if isinstance(prompt, str):
            encoded = encode_texts([prompt], self.characters)[0]
            options = {"temperature": temperature, "top_k": top_k, "seed": seed}
            tokens = self.generate(encoded[None], count, **options)  # type: ignore[arg-type]
            return decode_texts(tokens, self.characters)[0]
        if not prompt.shape[1]:
            raise ValueError("The prompt is empty; expected one token or more.")
        model: Any = self.get_model()
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)

        def generate(tokens: Tensor) -> Tensor:
            whole: Tensor = model.generate(
                tokens, count, temperature=temperature, top_k=top_k, generator=generator
            )
            return whole[:, tokens.shape[1] :]

        return self.call(generate, prompt)
