"""Preprocessors of text: cleaning it, counting its words, cutting it into tokens."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from loopwright.datasets.base import Array, Samples
from loopwright.extras import require
from loopwright.preprocessors.base import Chunk, Preprocessor, preprocessors, require_text


@preprocessors.register("alphanumeric")
class Alphanumeric(Preprocessor):
    """Keeps letters, digits and white space; a run of anything else becomes one space."""

    def describe(self, info: Array) -> Array:
        require_text(info, "alphanumeric")
        return info

    def transform(self, features: Samples) -> list[str]:
        return [re.sub(r"(?:[^\w\s]|_)+", " ", text) for text in features]


_LANGUAGES = {
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "portuguese": "pt",
    "spanish": "es",
}


@preprocessors.register("lemmatization")
class Lemmatization(Preprocessor):
    """Puts each word into the form that stands in a dictionary, by simplemma.

    Args:
        language: such as english, or a code that simplemma knows, such as nl.
    """

    extra = "language"

    def __init__(self, language: str = "english") -> None:
        self.language = _LANGUAGES.get(language, language)

    def describe(self, info: Array) -> Array:
        require_text(info, "lemmatization")
        self._lemmatize("word")  # refuses an unknown language before anything is read
        return info

    def transform(self, features: Samples) -> list[str]:
        return [self._lemmatize(text) for text in features]

    def _lemmatize(self, text: str) -> str:
        simplemma = require("simplemma", "language")
        try:
            words: list[str] = simplemma.text_lemmatizer(text, lang=self.language)
        except ValueError as error:
            raise ValueError(
                f"language is {self.language!r}, which simplemma does not know. Known are "
                f"{', '.join(_LANGUAGES)} and its codes."
            ) from error
        return " ".join(words)


class _Vectorizer(Preprocessor):
    """Counts words, by scikit-learn's analysis of text, over a vocabulary from the training part.

    Args:
        lowercase: whether capitals count as small letters.
        strip_accents: whether accents are dropped: ascii, unicode or not at all.
        stop_words: english drops the words that say nothing.
        ngram_range: the shortest and longest run of words that is counted.
        min_df: words in fewer samples are dropped: a count, or as a float a share.
        max_df: words in more samples are dropped: a count, or as a float a share.
        max_features: how many words stay, the most frequent.
    """

    extra = "sklearn"
    learned = ("vocabulary", "document_counts", "num_documents")

    def __init__(
        self,
        lowercase: bool = True,
        strip_accents: Literal["ascii", "unicode"] | None = None,
        stop_words: Literal["english"] | None = None,
        ngram_range: tuple[int, int] = (1, 1),
        min_df: int | float = 1,
        max_df: int | float = 1.0,
        max_features: int | None = 10_000,
    ) -> None:
        self._analysis = {
            "lowercase": lowercase,
            "strip_accents": strip_accents,
            "stop_words": stop_words,
            "ngram_range": tuple(ngram_range),
        }
        self._limits = (min_df, max_df, max_features)
        self.vocabulary: list[str] | None = None
        self.document_counts: np.ndarray | None = None
        self.num_documents: int | None = None

    def describe(self, info: Array) -> Array:
        require_text(info, self.name)
        size = None if self.vocabulary is None else len(self.vocabulary)
        return replace(info, shape=(size,), dtype=torch.float32, names=tuple(self.vocabulary or ()))

    def fit_generator(self, chunks: Iterable[Chunk]) -> None:
        analyze: Callable[[str], list[str]] = self._vectorizer().build_analyzer()
        num_documents, terms, documents = 0, Counter[str](), Counter[str]()
        for texts, _ in chunks:
            num_documents += len(texts)
            for text in texts:
                words = Counter(analyze(text))
                terms.update(words)
                documents.update(words.keys())
        min_df, max_df, max_features = self._limits
        least = min_df * num_documents if isinstance(min_df, float) else min_df
        most = max_df * num_documents if isinstance(max_df, float) else max_df
        words_left = sorted(word for word, count in documents.items() if least <= count <= most)
        if not words_left:
            raise ValueError(
                f"No word of the training part is left by min_df {min_df} and max_df {max_df}."
            )
        frequent = sorted(words_left, key=lambda word: -terms[word])[:max_features]
        self.vocabulary = sorted(frequent)
        self.document_counts = np.array([documents[word] for word in self.vocabulary])
        self.num_documents = num_documents

    def _vectorizer(self) -> Any:
        raise NotImplementedError

    def transform(self, features: Samples) -> Tensor:
        self._require_fitted()
        counts = self._vectorizer().transform(features)
        return torch.from_numpy(counts.toarray().astype(np.float32))


@preprocessors.register("tfidf")
class Tfidf(_Vectorizer):
    """Weighs how often a word stands in a text by how few texts of the training part have it.

    Args:
        lowercase: whether capitals count as small letters.
        strip_accents: whether accents are dropped: ascii, unicode or not at all.
        stop_words: english drops the words that say nothing.
        ngram_range: the shortest and longest run of words that is counted.
        min_df: words in fewer samples are dropped: a count, or as a float a share.
        max_df: words in more samples are dropped: a count, or as a float a share.
        max_features: how many words stay, the most frequent.
        use_idf: whether the number of texts plays a part.
        sublinear_tf: whether a count n becomes 1 + log(n).
    """

    def __init__(
        self,
        lowercase: bool = True,
        strip_accents: Literal["ascii", "unicode"] | None = None,
        stop_words: Literal["english"] | None = None,
        ngram_range: tuple[int, int] = (1, 1),
        min_df: int | float = 1,
        max_df: int | float = 1.0,
        max_features: int | None = 10_000,
        use_idf: bool = True,
        sublinear_tf: bool = False,
    ) -> None:
        super().__init__(
            lowercase, strip_accents, stop_words, ngram_range, min_df, max_df, max_features
        )
        self._weights = {"use_idf": use_idf, "sublinear_tf": sublinear_tf}

    def _vectorizer(self) -> Any:
        text = require("sklearn.feature_extraction.text", "sklearn")
        vectorizer = text.TfidfVectorizer(
            vocabulary=self.vocabulary, **self._analysis, **self._weights
        )
        if self.document_counts is not None and self._weights["use_idf"]:
            assert self.num_documents is not None
            # Smoothed as scikit-learn does: as if one more text held every word.
            vectorizer.idf_ = np.log((1 + self.num_documents) / (1 + self.document_counts)) + 1.0
        return vectorizer


@preprocessors.register("binary_vectorizer")
class BinaryVectorizer(_Vectorizer):
    """Gives a one for each word of the vocabulary that stands in a text, else a zero.

    Args:
        lowercase: whether capitals count as small letters.
        strip_accents: whether accents are dropped: ascii, unicode or not at all.
        stop_words: english drops the words that say nothing.
        ngram_range: the shortest and longest run of words that is counted.
        min_df: words in fewer samples are dropped: a count, or as a float a share.
        max_df: words in more samples are dropped: a count, or as a float a share.
        max_features: how many words stay, the most frequent.
    """

    def _vectorizer(self) -> Any:
        text = require("sklearn.feature_extraction.text", "sklearn")
        return text.CountVectorizer(vocabulary=self.vocabulary, binary=True, **self._analysis)


@preprocessors.register("characters")
class Characters(Preprocessor):
    """Gives the numbers of characters, int64, filled up to one length.

    0 fills up, 1 stands for a character that the training part does not have.

    Args:
        max_length: characters in a sample; a longer text is refused.
    """

    learned = ("vocabulary",)

    def __init__(self, max_length: int = 128) -> None:
        if max_length < 1:
            raise ValueError(f"max_length is {max_length}; expected 1 or more.")
        self.max_length = max_length
        self.vocabulary: list[str] | None = None

    def describe(self, info: Array) -> Array:
        require_text(info, "characters")
        known = self.vocabulary
        return replace(
            info,
            shape=(self.max_length,),
            dtype=torch.int64,
            vocabulary_size=None if known is None else len(known) + 2,
            tokens=() if known is None else ("<padding>", "<unknown>", *known),
        )

    def fit_generator(self, chunks: Iterable[Chunk]) -> None:
        self.vocabulary = sorted({each for texts, _ in chunks for each in "".join(texts)})

    def transform(self, features: Samples) -> Tensor:
        self._require_fitted()
        assert self.vocabulary is not None
        numbers = {character: i for i, character in enumerate(self.vocabulary, start=2)}
        tokens = torch.zeros(len(features), self.max_length, dtype=torch.int64)
        for row, text in zip(tokens, features, strict=True):
            if len(text) > self.max_length:
                raise ValueError(
                    f"A text has {len(text)} characters, and characters.max_length is "
                    f"{self.max_length}. Shorten it, or train with a larger one."
                )
            row[: len(text)] = torch.tensor([numbers.get(each, 1) for each in text])
        return tokens


@preprocessors.register("tokenizer")
class Tokenizer(Preprocessor):
    """Cuts text into tokens that are learned from the training part, and gives their numbers.

    Every sample is cut or filled up to one length, int64; 0 fills up, 1 stands for what is unknown.

    Args:
        kind: bpe learns parts of words, word learns whole words.
        vocabulary_size: how many tokens there are at most.
        max_length: tokens in a sample.
        lowercase: whether capitals count as small letters.
    """

    extra = "language"
    learned = ("tokenizer",)

    def __init__(
        self,
        kind: Literal["bpe", "word"] = "bpe",
        vocabulary_size: int = 8000,
        max_length: int = 128,
        lowercase: bool = True,
    ) -> None:
        if vocabulary_size < 3 or max_length < 1:
            raise ValueError(
                f"vocabulary_size is {vocabulary_size} and max_length {max_length}; expected at "
                "least 3 and 1."
            )
        self.kind = kind
        self.vocabulary_size = vocabulary_size
        self.max_length = max_length
        self.lowercase = lowercase
        self.tokenizer: str | None = None
        self._made: Any = None

    def describe(self, info: Array) -> Array:
        require_text(info, "tokenizer")
        size = None if self.tokenizer is None else self._loaded().get_vocab_size()
        return replace(info, shape=(self.max_length,), dtype=torch.int64, vocabulary_size=size)

    def fit_generator(self, chunks: Iterable[Chunk]) -> None:
        tokenizers = require("tokenizers", "language")
        models, trainers = tokenizers.models, tokenizers.trainers
        model, trainer = {
            "bpe": (models.BPE, trainers.BpeTrainer),
            "word": (models.WordLevel, trainers.WordLevelTrainer),
        }[self.kind]
        made = tokenizers.Tokenizer(model(unk_token="[UNK]"))
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        if self.lowercase:
            made.normalizer = tokenizers.normalizers.Lowercase()
        special = ["[PAD]", "[UNK]"]
        made.train_from_iterator(
            (list(texts) for texts, _ in chunks),
            trainer(vocab_size=self.vocabulary_size, special_tokens=special, show_progress=False),
        )
        made.enable_padding(pad_id=0, pad_token="[PAD]", length=self.max_length)
        made.enable_truncation(self.max_length)
        self.tokenizer, self._made = made.to_str(), made

    def transform(self, features: Samples) -> Tensor:
        self._require_fitted()
        encoded = self._loaded().encode_batch(list(features))
        return torch.tensor([each.ids for each in encoded], dtype=torch.int64)

    def _loaded(self) -> Any:
        if self._made is None or self._made.to_str() != self.tokenizer:
            self._made = require("tokenizers", "language").Tokenizer.from_str(self.tokenizer)
        return self._made
