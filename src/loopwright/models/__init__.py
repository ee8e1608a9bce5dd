"""Models by name, their sizes taken from the data where they are left out."""

from loopwright.models.adversarial_autoencoder import (
    AdversarialAutoencoder,
    CodeDiscriminator,
    SemiSupervisedAdversarialAutoencoder,
    aae,
    semi_supervised_aae,
)
from loopwright.models.autoencoder import (
    Autoencoder,
    VariationalAutoencoder,
    autoencoder,
    vae,
)
from loopwright.models.base import models
from loopwright.models.building import build_model
from loopwright.models.cnn import cnn
from loopwright.models.dogs_vs_cats_cnn import dogs_vs_cats_cnn
from loopwright.models.gans import (
    Dcgan,
    DcganDiscriminator,
    DcganGenerator,
    OpposedNetworks,
    dcgan,
)
from loopwright.models.image_translation import (
    CycleGan,
    PatchDiscriminator,
    Pix2Pix,
    ResnetGenerator,
    UnetGenerator,
    cyclegan,
    pix2pix,
)
from loopwright.models.libraries import huggingface, torchvision
from loopwright.models.mlp import mlp
from loopwright.models.resnet import resnet
from loopwright.models.seq2seq import (
    RnnSeq2Seq,
    Seq2Seq,
    TransformerSeq2Seq,
    rnn_seq2seq,
    transformer_seq2seq,
)
from loopwright.models.tabular import tabular_mlp
from loopwright.models.texts import gpt, text_cnn, transformer_classifier

__all__ = [
    "AdversarialAutoencoder",
    "Autoencoder",
    "CodeDiscriminator",
    "CycleGan",
    "Dcgan",
    "DcganDiscriminator",
    "DcganGenerator",
    "OpposedNetworks",
    "PatchDiscriminator",
    "Pix2Pix",
    "ResnetGenerator",
    "RnnSeq2Seq",
    "SemiSupervisedAdversarialAutoencoder",
    "Seq2Seq",
    "TransformerSeq2Seq",
    "UnetGenerator",
    "VariationalAutoencoder",
    "aae",
    "autoencoder",
    "build_model",
    "cnn",
    "cyclegan",
    "dcgan",
    "dogs_vs_cats_cnn",
    "gpt",
    "huggingface",
    "mlp",
    "models",
    "pix2pix",
    "resnet",
    "rnn_seq2seq",
    "semi_supervised_aae",
    "tabular_mlp",
    "text_cnn",
    "torchvision",
    "transformer_classifier",
    "transformer_seq2seq",
    "vae",
]
