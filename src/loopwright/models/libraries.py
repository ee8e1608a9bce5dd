"""Architectures of other libraries, with weights that are drawn anew; nothing is fetched."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from loopwright.errors import ConfigurationError
from loopwright.extras import require
from loopwright.models.base import models
from loopwright.registry import nearest_name


@models.register("huggingface", extra="transformers")
def huggingface(
    input_shape: Sequence[int],
    classes: int,
    model_type: str,
    vocabulary_size: int | None = None,
    padding: int | None = None,
    **config: Any,
) -> nn.Module:
    """Make a classifier of the transformers library from its configuration alone.

    Args:
        input_shape: (length,) of a sequence of tokens, or (channels, height, width) of an image.
        classes: outputs of the last layer.
        model_type: what the library calls the architecture, such as bert or vit.
        vocabulary_size: how many tokens there are.
        padding: the token that fills sequences up, which is not attended to.
        **config: further values of the library's configuration, such as `hidden_size`.

    Raises:
        ValueError: there is no such architecture or value, or it takes no such samples.
    """
    library = require("transformers", "transformers")
    known = library.CONFIG_MAPPING
    if model_type not in known:
        nearest = nearest_name(model_type, list(known))
        raise ValueError(
            f"transformers has no model_type {model_type!r}"
            + (f". Did you mean {nearest!r}?" if nearest else "")
        )
    defaults = known[model_type]()
    if refused := [n for n in _keys(config) if n.startswith("_") or n.endswith("_implementation")]:
        raise ValueError(f"{refused[0]!r} can name code to fetch and run: leave it out")
    names = [*defaults.to_dict(), *defaults.attribute_map]
    if unknown := [name for name in config if name not in names]:
        nearest = nearest_name(unknown[0], names)
        raise ValueError(
            f"the configuration of {model_type} has no {unknown[0]!r}"
            + (f". Did you mean {nearest!r}?" if nearest else "")
        )
    is_image = len(input_shape) == 3
    if is_image:
        sizes = {"num_channels": input_shape[0], "image_size": max(input_shape[1:])}
        kind = library.AutoModelForImageClassification
    elif vocabulary_size is None:
        raise ValueError(
            f"{model_type} takes images or sequences of tokens; a sample here has the shape "
            f"{tuple(input_shape)}: end dataset.preprocessors with tokenizer"
        )
    else:
        length = max(input_shape[0], getattr(defaults, "max_position_embeddings", 0))
        sizes = {"vocab_size": vocabulary_size, "max_position_embeddings": length}
        sizes |= {} if padding is None else {"pad_token_id": padding}
        kind = library.AutoModelForSequenceClassification
    made = known[model_type](**{**sizes, "num_labels": classes, **config})
    return HuggingFaceClassifier(kind.from_config(made), padding, is_image=is_image)


def _keys(values: Any) -> Iterator[str]:
    """Give every key in a tree of plain values."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield str(key)
            yield from _keys(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _keys(value)


class HuggingFaceClassifier(nn.Module):
    """Takes token numbers (samples, length) or images; gives scores (samples, classes)."""

    def __init__(self, network: nn.Module, padding: int | None, *, is_image: bool) -> None:
        super().__init__()
        self.network = network
        self.padding = padding
        self.is_image = is_image

    def forward(self, inputs: Tensor) -> Tensor:
        """Return one row of scores for each sample."""
        if self.is_image:
            found = self.network(pixel_values=inputs)
        else:
            mask = None if self.padding is None else (inputs != self.padding).long()
            found = self.network(input_ids=inputs, attention_mask=mask)
        scores: Tensor = found.logits
        return scores


@models.register("torchvision")
def torchvision(input_shape: Sequence[int], classes: int, name: str, **arguments: Any) -> nn.Module:
    """Make a classifier of images by torchvision.

    Args:
        input_shape: (3, height, width) of an image.
        classes: outputs of the last layer.
        name: what torchvision calls the architecture, such as resnet18.
        **arguments: those of the architecture's function.

    Raises:
        ConfigurationError: torchvision is not installed, or does not load beside this torch.
        ValueError: there is no such architecture, or it takes no such samples.
    """
    library = _torchvision_models()
    if name not in library.list_models(module=library):
        nearest = nearest_name(name, library.list_models(module=library))
        raise ValueError(
            f"torchvision has no classifier {name!r}"
            + (f". Did you mean {nearest!r}?" if nearest else "")
        )
    if len(input_shape) != 3 or input_shape[0] != 3:
        raise ValueError(
            f"torchvision's classifiers take images of shape (3, height, width); a sample here has "
            f"the shape {tuple(input_shape)}"
        )
    if arguments.get("weights") is not None or arguments.get("pretrained"):
        raise ValueError("weights are not fetched: leave out weights and pretrained")
    made: nn.Module = library.get_model(name, **{**arguments, "num_classes": classes})
    return made


def _torchvision_models() -> Any:
    try:
        return import_module("torchvision.models")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torchvision":
            raise
        raise ConfigurationError(
            "torchvision is not installed. Install the version that belongs to torch "
            f"{torch.__version__}: pip install torchvision"
        ) from None
    except Exception as error:  # what a build for another torch raises is up to it
        first = str(error).partition("\n")[0]
        raise ConfigurationError(
            f"torchvision is installed and cannot be loaded ({type(error).__name__}: {first}). "
            f"Install the version that belongs to torch {torch.__version__}."
        ) from error
