"""Training networks that turn sequences of tokens into others, and translating with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loopwright.datasets.pairs import BEGIN, END, PADDING
from loopwright.trainer import Trainer
from loopwright.trainers.decoding import beam_search
from loopwright.trainers.inferrer import Inferrer
from loopwright.trainers.tokens import count_tokens, decode_texts, token_cross_entropy


def mix_predictions(
    inputs: Tensor, predicted: Tensor, teacher_forcing: float, padding: int = PADDING
) -> Tensor:
    """Return the tokens that a decoder gets, some of them replaced by what it predicted.

    Which ones is drawn from torch's global generator. The first tokens and padding stay.

    Args:
        inputs: The true tokens, int64 [N, length].
        predicted: The token that is predicted after each of them, likewise.
        teacher_forcing: The share of true tokens that stay.
        padding: The token that fills up.
    """
    stay = torch.rand(inputs.shape, device=inputs.device) < teacher_forcing
    stay[:, 0] = True
    shifted = torch.cat([inputs[:, :1], predicted[:, :-1]], dim=1)
    return torch.where(stay | (inputs == padding), inputs, shifted)


class Seq2SeqTrainer(Trainer):
    """Trains a network to write targets that belong to sources, token by token.

    A batch is sources [N, source_length] and targets [N, target_length], numbers of tokens (int64);
    a target starts with the token of beginning, has that of the end after its last one, and both
    are filled up at their end with padding. The model is called with sources and all target tokens
    but the last, and gives logits [N, vocabulary, target_length - 1], as those of
    `loopwright.models.seq2seq` do. Without a `loss_func` the loss is `token_cross_entropy`; another
    is called with (logits, all targets but the first) and has to be a mean over tokens that are no
    padding.

    With `teacher_forcing` below 1 a share of the decoder's inputs in training is what it predicts
    itself: scheduled sampling (Bengio et al. 2015, https://arxiv.org/abs/1506.03099) in two passes,
    the first one over the true tokens (Mihaylova and Martins 2019,
    https://arxiv.org/abs/1906.07651). Evaluation gives it the true ones.

    Args:
        teacher_forcing: The share of true tokens among the decoder's inputs.
        label_smoothing: As in `token_cross_entropy`, and for it; in training alone.
        padding: The token that fills targets up.
        args: Those of `Trainer`.
        options: Likewise.
    """

    def __init__(
        self,
        model: Any,
        loss_func: Any,
        optimizer: Any,
        *args: Any,
        teacher_forcing: float = 1.0,
        label_smoothing: float = 0.0,
        padding: int = PADDING,
        **options: Any,
    ) -> None:
        if not (0 <= teacher_forcing <= 1 and 0 <= label_smoothing < 1):
            raise ValueError(
                f"teacher_forcing is {teacher_forcing} and label_smoothing {label_smoothing}; "
                "expected 0 to 1, and 0 or more and below 1."
            )
        if label_smoothing and loss_func is not None:
            raise ValueError(
                f"label_smoothing is {label_smoothing}, and the loss_func {loss_func!r} does not "
                "take it. Smooth in that function, or give None for token_cross_entropy."
            )
        self.teacher_forcing = teacher_forcing
        self.label_smoothing = label_smoothing
        self.padding = padding
        super().__init__(model, loss_func, optimizer, *args, **options)

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        sources, inputs = batch[0], batch[1][:, :-1]
        if self.teacher_forcing < 1:
            with torch.no_grad():
                predicted = self.model(sources, inputs).argmax(dim=1)
            inputs = mix_predictions(inputs, predicted, self.teacher_forcing, self.padding)
        return self._loss_of(batch, inputs, self.label_smoothing)

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        return self._loss_of(batch, batch[1][:, :-1], 0.0)

    def _loss_of(self, batch: Any, inputs: Tensor, label_smoothing: float) -> dict[str, Any]:
        sources, targets = batch[0], batch[1][:, 1:]
        logits = self.model(sources, inputs)
        if self.loss_func is None:
            loss = token_cross_entropy(logits, targets, self.padding, label_smoothing)
        else:
            loss = self.loss_func(logits, targets)
        return {
            "loss": loss,
            "model_outputs": logits,
            "batch_size": len(sources),
            "num_items_in_batch": count_tokens(targets, self.padding),
        }


class Seq2SeqInferrer(Inferrer):
    """Translates sequences with a trained network, such as those of `loopwright.models.seq2seq`.

    Args:
        model: The network, with `encode` and `decode`.
        device_id: N for cuda:N, below 0 for the CPU.
        encode: Makes tokens [N, source_length] of texts, for those who translate texts.
        names: What the tokens of targets stand for, likewise.
        begin: The token before a target.
        end: The token after a target.
        padding: The token that fills up.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        device_id: int = -1,
        *,
        encode: Callable[[Sequence[str]], Tensor] | None = None,
        names: Sequence[str] = (),
        begin: int = BEGIN,
        end: int = END,
        padding: int = PADDING,
    ) -> None:
        super().__init__(model, device_id)
        self.encode, self.names = encode, names
        self.begin, self.end, self.padding = begin, end, padding

    def translate(
        self,
        sources: Tensor | Sequence[str],
        *,
        max_length: int = 100,
        beams: int = 1,
        length_penalty: float = 1.0,
    ) -> Any:
        """Return the targets that the model finds likeliest, by `beam_search`.

        The decoder runs over the whole beginning for each token: the cost grows with the square of
        the length.

        Args:
            sources: Tokens [N, source_length], or texts.
            max_length: Tokens in a target, its end included.
            beams: Targets that are kept in mind; 1 is greedy search.
            length_penalty: 0 prefers short targets.

        Returns:
            Tokens [N, max_length], padding after the end, on the device; a list of texts for texts.

        Raises:
            ValueError: A number is out of its range, or texts are given without `encode`.
        """
        if not isinstance(sources, Tensor):
            tokens = self.translate(
                self._encoded(sources),
                max_length=max_length,
                beams=beams,
                length_penalty=length_penalty,
            )
            return decode_texts(tokens, self.names, (self.begin, self.end, self.padding))
        model: Any = self.get_model()

        def search(sources: Tensor) -> Tensor:
            memory = [part.repeat_interleave(beams, dim=0) for part in model.encode(sources)]
            return beam_search(
                lambda tokens: model.decode(memory, tokens)[:, :, -1],
                torch.full((len(sources),), self.begin, device=sources.device),
                max_length=max_length,
                end=self.end,
                padding=self.padding,
                beams=beams,
                length_penalty=length_penalty,
            )

        return self.call(search, sources)

    def _encoded(self, texts: Sequence[str]) -> Tensor:
        if self.encode is None:
            raise ValueError("Texts need Seq2SeqInferrer(encode=..., names=...). Give tokens else.")
        return self.encode(texts)
