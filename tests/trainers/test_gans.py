"""Networks that play against each other: trainers beside plain scripts, going on, and use."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tiny import global_states, same
from torch import Tensor, nn
from torch.nn import functional as f

from loopwright.checkpoint_policy import CheckpointPolicy
from loopwright.models import aae, cyclegan, dcgan, pix2pix, semi_supervised_aae
from loopwright.seed import set_seed
from loopwright.trainers import (
    AdversarialAutoencoderTrainer,
    AutoencoderInferrer,
    CycleGanInferrer,
    CycleGanTrainer,
    DcganInferrer,
    DcganTrainer,
    ImagePool,
    Pix2PixInferrer,
    Pix2PixTrainer,
    SemiSupervisedAaeInferrer,
    SemiSupervisedAaeTrainer,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    known_label_loss,
)

EPOCHS, SIZE, NUM_SAMPLES = 2, 4, 12


def images(seed: int = 1) -> Tensor:
    return torch.rand(NUM_SAMPLES, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([0, 1, 2, -1, 1, 1, 0, 2, -1, -1, -1, -1])
PAIRS = (images(1), images(2))


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=2e-3, betas=(0.5, 0.999))


def optimizers_of(model: Any) -> dict[str, torch.optim.Optimizer]:
    return {name: adam(each) for name, each in model.parameters_by_optimizer().items()}


def batches(data: Any) -> Iterator[Any]:
    parts = data if isinstance(data, tuple) else (data,)
    for _ in range(EPOCHS):
        yield from zip(*(part.split(SIZE) for part in parts), strict=True)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def bce(logits: Tensor, target: float) -> Tensor:
    return f.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def plain_dcgan(model: Any, data: Any) -> dict[str, list[float]]:
    """A script as the tutorials of PyTorch have it."""
    d, g = adam(model.discriminator.parameters()), adam(model.generator.parameters())
    losses: dict[str, list[float]] = {"discriminator": [], "generator": []}
    for (real,) in batches(data):
        made = model.generator(torch.randn(len(real), 3))
        loss = bce(model.discriminator(real), 0.9) + bce(model.discriminator(made.detach()), 0.0)
        losses["discriminator"].append(step(d, loss))
        losses["generator"].append(step(g, bce(model.discriminator(made), 1.0)))
    return losses


def plain_wgan_gp(model: Any, data: Any) -> dict[str, list[float]]:
    """Algorithm 1 of the paper, with two updates of the critic for one of the generator."""
    d, g = adam(model.discriminator.parameters()), adam(model.generator.parameters())
    losses: dict[str, list[float]] = {"discriminator": [], "generator": []}
    for index, (real,) in enumerate(batches(data)):
        made = model.generator(torch.randn(len(real), 3))
        judged = model.discriminator(real), model.discriminator(made.detach())
        loss = judged[1].mean() - judged[0].mean()
        mixed = torch.lerp(real, made.detach(), torch.rand(len(real), 1, 1, 1))
        mixed.requires_grad_(True)
        height = model.discriminator(mixed)
        slope = torch.autograd.grad(height, mixed, torch.ones_like(height), create_graph=True)[0]
        loss = loss + 10 * ((slope.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
        losses["discriminator"].append(step(d, loss))
        loss = -model.discriminator(made).mean()
        losses["generator"].append(step(g, loss) if index % 2 else float("nan"))
    return losses


def plain_aae(model: Any, data: Any) -> dict[str, list[float]]:
    both = [*model.encoder.parameters(), *model.decoder.parameters()]
    names = ("reconstruction", "discriminator", "regularization")
    parts = (both, model.discriminator.parameters(), model.encoder.parameters())
    optimizers = dict(zip(names, map(adam, parts), strict=True))
    losses: dict[str, list[float]] = {name: [] for name in names}

    def take(name: str, loss: Tensor) -> None:
        losses[name].append(step(optimizers[name], loss))

    for (x,) in batches(data):
        logits = model.decoder(model.encoder(x)).view_as(x)
        summed = f.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        take("reconstruction", summed / len(x))
        codes = model.encoder(x)
        judged = model.discriminator(torch.randn_like(codes)), model.discriminator(codes.detach())
        take("discriminator", bce(judged[0], 1.0) + bce(judged[1], 0.0))
        take("regularization", bce(model.discriminator(codes), 1.0))
    return losses


def plain_semi(model: Any, data: Any) -> dict[str, list[float]]:
    encoder, judges = model.encoder, (model.class_discriminator, model.style_discriminator)
    trained = {
        "reconstruction": [*encoder.parameters(), *model.decoder.parameters()],
        "discriminator": [p for judge in judges for p in judge.parameters()],
        "regularization": encoder.parameters(),
        "classification": encoder.parameters(),
    }
    optimizers = {name: adam(each) for name, each in trained.items()}
    losses: dict[str, list[float]] = {name: [] for name in trained}

    def take(name: str, loss: Tensor) -> None:
        losses[name].append(step(optimizers[name], loss))

    def codes_of(x: Tensor) -> tuple[Tensor, Tensor]:
        encoded = encoder(x)
        return encoded[:, :3].softmax(dim=1), encoded[:, 3:]

    for x, y in batches(data):
        logits = model.decoder(torch.cat(codes_of(x), dim=1)).view_as(x)
        summed = f.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        take("reconstruction", summed / len(x))
        codes = codes_of(x)
        drawn_class = f.one_hot(torch.randint(3, (len(x),)), 3).float()
        drawn = drawn_class, torch.randn_like(codes[1])
        parts = [
            bce(judge(real), 1.0) + bce(judge(made.detach()), 0.0)
            for judge, real, made in zip(judges, drawn, codes, strict=True)
        ]
        take("discriminator", parts[0] + parts[1])
        played = [bce(judge(each), 1.0) for judge, each in zip(judges, codes, strict=True)]
        take("regularization", played[0] + played[1])
        known = y >= 0
        logits = encoder(x)[:, :3]
        if known.any():
            take("classification", f.cross_entropy(logits[known], y[known]))
        else:
            take("classification", logits.sum() * 0)
    return losses


def plain_pix2pix(model: Any, data: Any) -> dict[str, list[float]]:
    d, g = adam(model.discriminator.parameters()), adam(model.generator.parameters())
    losses: dict[str, list[float]] = {"discriminator": [], "generator": []}
    for source, target in batches(data):
        made = model.generator(source)
        real = model.discriminator(torch.cat([source, target], 1))
        fake = model.discriminator(torch.cat([source, made.detach()], 1))
        losses["discriminator"].append(step(d, 0.5 * (bce(real, 1.0) + bce(fake, 0.0))))
        fake = model.discriminator(torch.cat([source, made], 1))
        loss = bce(fake, 1.0) + 100 * (made - target).abs().mean()
        losses["generator"].append(step(g, loss))
    return losses


class Pool:
    """Keeps images in a list, as the scripts of the paper's authors do."""

    def __init__(self, size: int) -> None:
        self.size, self.images = size, []  # type: ignore[var-annotated]

    def exchange(self, made: Tensor) -> Tensor:
        coins, places = torch.rand(2, len(made))
        given = []
        for image, coin, place in zip(made.detach(), coins, places, strict=True):
            if len(self.images) < self.size:
                self.images.append(image)
                given.append(image)
            elif coin < 0.5:
                index = int(place * self.size)
                given.append(self.images[index])
                self.images[index] = image
            else:
                given.append(image)
        return torch.stack(given)


def plain_cyclegan(model: Any, data: Any) -> dict[str, list[float]]:
    generators = [*model.a_to_b.parameters(), *model.b_to_a.parameters()]
    g, pools = adam(generators), (Pool(5), Pool(5))
    judges = model.discriminator_a, model.discriminator_b
    d = adam([p for judge in judges for p in judge.parameters()])
    losses: dict[str, list[float]] = {"discriminators": [], "generators": []}

    def squared(logits: Tensor, target: float) -> Tensor:
        return ((logits - target) ** 2).mean()

    for a, b in batches(data):
        made_b, made_a = model.a_to_b(a), model.b_to_a(b)
        loss = squared(judges[1](made_b), 1) + squared(judges[0](made_a), 1)
        cycle = f.l1_loss(model.b_to_a(made_b), a) + f.l1_loss(model.a_to_b(made_a), b)
        same = f.l1_loss(model.b_to_a(a), a) + f.l1_loss(model.a_to_b(b), b)
        losses["generators"].append(step(g, loss + 10 * cycle + 10 * 0.5 * same))
        earlier = pools[0].exchange(made_a), pools[1].exchange(made_b)
        parts = [
            squared(judge(real), 1) + squared(judge(made), 0)
            for judge, real, made in zip(judges, (a, b), earlier, strict=True)
        ]
        losses["discriminators"].append(step(d, 0.5 * (parts[0] + parts[1])))
    return losses


class Case(NamedTuple):
    kind: Any
    make: Callable[[], Any]
    data: Any
    script: Callable[[Any, Any], dict[str, list[float]]]
    options: dict[str, Any] = {}


SMALL: dict[str, Any] = {"code_size": 2, "hidden": [8], "discriminator": [8]}
GAN: dict[str, Any] = {"code_size": 3, "width": 4}
WGAN_GP = {"gan_loss": "wasserstein", "penalty_weight": 10.0, "generator_every": 2}
CASES = {
    "dcgan": Case(
        DcganTrainer, lambda: dcgan([1, 8, 8], **GAN), images(), plain_dcgan,
        {"label_smoothing": 0.1},
    ),
    "spectral": Case(
        DcganTrainer, lambda: dcgan([1, 8, 8], spectral_norm=True, **GAN), images(), plain_dcgan,
        {"label_smoothing": 0.1},
    ),
    "wgan-gp": Case(
        DcganTrainer, lambda: dcgan([1, 8, 8], norm="none", **GAN), images(), plain_wgan_gp,
        WGAN_GP,
    ),
    "aae": Case(
        AdversarialAutoencoderTrainer, lambda: aae([1, 8, 8], **SMALL), images(), plain_aae
    ),
    "semi": Case(
        SemiSupervisedAaeTrainer, lambda: semi_supervised_aae([1, 8, 8], 3, **SMALL),
        (images(), LABELS), plain_semi,
    ),
    "pix2pix": Case(
        Pix2PixTrainer, lambda: pix2pix([1, 8, 8], width=4, discriminator_layers=1), PAIRS,
        plain_pix2pix,
    ),
    "cyclegan": Case(
        CycleGanTrainer,
        lambda: cyclegan([1, 8, 8], width=2, num_blocks=1, discriminator_layers=1), PAIRS,
        plain_cyclegan, {"pool_size": 5},
    ),
}  # fmt: skip


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def make(case: Case, seed: int = 0, **options: Any) -> Any:
    model = seeded(case.make, seed)
    options = {"callbacks": (), "seed": 3} | case.options | options
    return case.kind(model, None, optimizers_of(model), **options)


def run(trainer: Any, data: Any, **options: Any) -> None:
    settings = {"per_device_batch_size": SIZE, "train_dataloader_kwargs": {"shuffle": False}}
    trainer.train(data, EPOCHS, **settings | options)


@pytest.mark.parametrize("name", CASES)
def test_training_is_that_of_a_plain_script(name: str) -> None:
    """L-04, L-102: the same weights to the bit, and separate histories of the networks' losses."""
    case = CASES[name]
    model = seeded(case.make)
    set_seed(5)
    losses = case.script(model, case.data)
    trainer = make(case)
    set_seed(5)
    run(trainer, case.data)
    assert same(model.state_dict().values(), trainer.model.state_dict().values())
    for each, values in losses.items():
        per_epoch = torch.tensor(values).view(EPOCHS, -1)
        if each == "classification":  # a mean over samples whose class is known
            known = torch.stack([(y >= 0).sum() for y in LABELS.split(SIZE)]).float()
            expected = (per_epoch * known).sum(dim=1) / known.sum()
        else:
            expected = per_epoch.nanmean(dim=1)
        recorded = trainer.run_history.get_metric_values(f"train_{each}_loss_epoch")
        assert list(recorded) == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_run_goes_on_exactly(tmp_path: Path, name: str) -> None:
    """From a checkpoint in the middle of an epoch: every optimizer, the average, the pools."""
    case = CASES[name]
    if name == "dcgan":
        case = case._replace(make=lambda: dcgan([1, 8, 8], ema_decay=0.5, **GAN))
    folder = {"run_dir": tmp_path / "whole", "checkpoint": CheckpointPolicy(every_steps=2)}
    whole = make(case, **folder)
    set_seed(5)
    run(whole, case.data, eval_dataset=case.data)
    paths = sorted((tmp_path / "whole" / "checkpoints").glob("step-*"))
    resumed = make(case, seed=9)
    set_seed(6)
    run(resumed, case.data, eval_dataset=case.data, resume=paths[0])
    assert same(whole.model.state_dict().values(), resumed.model.state_dict().values())
    histories = [each.run_history for each in (whole, resumed)]
    names = histories[0].get_metric_names()
    assert names == histories[1].get_metric_names()
    for metric in names:
        first, second = (list(each.get_metric_values(metric)) for each in histories)
        assert first == second
    for each in whole.optimizer:
        states = [trainer.optimizer[each].state_dict()["state"] for trainer in (whole, resumed)]
        for one, other in zip(states[0].values(), states[1].values(), strict=True):
            assert same(one.values(), other.values())
    if name == "cyclegan":
        pools = whole.pools.state_dict().values(), resumed.pools.state_dict().values()
        assert same(*pools)
        assert int(whole.pools["a"].count) == 5


def test_the_losses_are_those_of_the_papers() -> None:
    real, made = torch.randn(6), torch.randn(6)
    p, q = real.sigmoid(), made.sigmoid()
    expected = -(p.log().mean() + (1 - q).log().mean())
    torch.testing.assert_close(discriminator_loss(real, made), expected)
    torch.testing.assert_close(generator_loss(made), -q.log().mean())
    smooth = -(0.8 * p.log() + 0.2 * (1 - p).log()).mean() - (1 - q).log().mean()
    torch.testing.assert_close(discriminator_loss(real, made, label_smoothing=0.2), smooth)
    squares = ((real - 1) ** 2).mean() + (made**2).mean()
    torch.testing.assert_close(discriminator_loss(real, made, "least_squares"), squares)
    torch.testing.assert_close(generator_loss(made, "least_squares"), ((made - 1) ** 2).mean())
    torch.testing.assert_close(
        discriminator_loss(real, made, "wasserstein"), made.mean() - real.mean()
    )
    torch.testing.assert_close(generator_loss(made, "wasserstein"), -made.mean())


def test_the_gradient_penalty_of_a_known_slope() -> None:
    """A plane of slope w costs (|w| - 1) squared, and its gradient reaches w."""
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    real, made = torch.rand(5, 2), torch.rand(5, 2)
    penalty = gradient_penalty(lambda x: x @ weight, real, made)
    assert penalty.item() == pytest.approx(16.0)
    penalty.backward()
    torch.testing.assert_close(weight.grad, torch.tensor([2 * 4 * 0.6, 2 * 4 * 0.8]))


def test_gradients_are_penalized_in_mixed_precision() -> None:
    model = dcgan((1, 8, 8), code_size=3, width=4, norm="none")
    optimizers = optimizers_of(model)
    trainer = DcganTrainer(
        model, None, optimizers, (), penalty_weight=10.0, precision="bf16", device="cpu"
    )
    trainer.train(images(), num_epochs=1, per_device_batch_size=SIZE)
    assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())
    loss = trainer.run_history.get_latest_metric("train_discriminator_loss_epoch")
    assert 9 < loss < 13, "at first the slope is near 0, so that the penalty is 10"


def test_the_loss_of_known_labels() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([2, -1, 0, -7])
    expected = f.cross_entropy(logits[[0, 2]], labels[[0, 2]])
    torch.testing.assert_close(known_label_loss(logits, labels), expected)
    assert known_label_loss(logits, torch.full((4,), -1)) == 0


def test_a_pool_keeps_no_image_that_is_not_finite() -> None:
    """Neither while it fills nor afterwards; a step that is undone cannot take it back."""
    pool = ImagePool(2, (1,))
    mixed = torch.tensor([[1.0], [float("nan")], [2.0], [float("inf")]])
    for _ in range(20):
        given = pool.exchange(mixed)
        assert not given[1].isfinite().any()
        assert not given[3].isfinite().any()
    assert int(pool.count) == 2
    assert pool.images.isfinite().all()


def test_a_pool_gives_earlier_images_half_of_the_time() -> None:
    pool, reference = ImagePool(5, (1,)), Pool(5)
    torch.manual_seed(2)
    state, given, expected = torch.get_rng_state(), [], []
    for start in range(0, 400, 4):
        given.append(pool.exchange(torch.arange(start, start + 4.0)[:, None]))
    torch.set_rng_state(state)
    for start in range(0, 400, 4):
        expected.append(reference.exchange(torch.arange(start, start + 4.0)[:, None]))
    assert torch.equal(torch.cat(given), torch.cat(expected))
    assert torch.equal(pool.images, torch.stack(reference.images))
    earlier = (torch.cat(given)[:, 0] != torch.arange(400.0)).float().mean()
    assert earlier == pytest.approx(0.5, abs=0.08)
    nothing = ImagePool(0, (1,))
    image = torch.ones(2, 1, requires_grad=True)
    assert torch.equal(nothing.exchange(image), image.detach())
    with pytest.raises(ValueError, match="size is -1"):
        ImagePool(-1, (1,))


def test_the_average_follows_the_generator() -> None:
    """After each update of a batch, and it is what an evaluation and the inferrer use."""
    case = CASES["dcgan"]._replace(make=lambda: dcgan([1, 8, 8], ema_decay=0.5, **GAN))
    trainer = make(case)
    averaged = seeded(case.make).generator.state_dict()

    class Following(DcganTrainer):
        def train_step(self, batch: Any) -> dict[str, Any]:
            output = super().train_step(batch)
            if self.progress.micro_batch % 3 == 2:  # the last of a batch
                for key, value in self.model.generator.state_dict().items():
                    is_mean = value.is_floating_point()
                    averaged[key] = 0.5 * averaged[key] + 0.5 * value if is_mean else value
            return output

    trainer.__class__ = Following
    run(trainer, case.data, gradient_accumulation_steps=3)
    kept = trainer.model.average.module.state_dict()
    for key, value in averaged.items():
        torch.testing.assert_close(kept[key], value)
    codes = torch.randn(2, 3)
    trainer.model.eval()
    with torch.no_grad():
        expected = trainer.model.average.module(codes)
        assert not torch.equal(expected, trainer.model.generator(codes))
    assert torch.equal(DcganInferrer(trainer.model).decode(codes), expected)


def test_spectral_norm_bounds_the_weights() -> None:
    """Every convolution of the discriminator has the largest singular value 1, after training."""
    trainer = make(CASES["spectral"])
    run(trainer, images())
    layers = [m for m in trainer.model.discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 2
    for layer in layers:
        trainer.model.eval()
        weight = layer.weight.detach().flatten(1)
        assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dcgan", {"gan_loss": "hinge"}, "gan_loss is 'hinge'; expected one of cross_entropy"),
        ("dcgan", {"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ("wgan-gp", {"label_smoothing": 0.1}, "no meaning for gan_loss='wasserstein'"),
        ("dcgan", {"penalty_weight": -1.0}, "penalty_weight=-1.0"),
        ("dcgan", {"generator_every": 0}, "generator_every=0"),
        ("pix2pix", {"distance_weight": -1.0}, "distance_weight is -1.0"),
        ("cyclegan", {"cycle_weight": -1.0}, "cycle_weight is -1.0"),
        ("wgan-gp", {"penalty_weight": 0.0}, "falls without end unless"),
        *(
            (name, {"gan_loss": "wasserstein"}, "spectral_norm=True.*penalty_weight=10")
            for name in ("aae", "semi", "pix2pix", "cyclegan")
        ),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(CASES[name], **options)


def test_a_wasserstein_loss_takes_a_discriminator_that_is_bounded() -> None:
    class Clipping(DcganTrainer):
        is_bounded = True

    make(CASES["wgan-gp"])
    make(CASES["spectral"]._replace(options={"gan_loss": "wasserstein"}))
    make(CASES["dcgan"]._replace(kind=Clipping, options={"gan_loss": "wasserstein"}))
    bounded = cyclegan([1, 8, 8], 2, 1, discriminator_layers=1, spectral_norm=True)
    CycleGanTrainer(bounded, None, optimizers_of(bounded), gan_loss="wasserstein")


def test_spectral_norm_on_each_layer_bounds_a_discriminator_and_nothing_less() -> None:
    def is_bounded(wrap: Callable[[nn.Module], Any], most: int, norm: Any = "none") -> bool:
        model = dcgan([1, 16, 16], norm=norm, **GAN)
        layers = [m for m in model.discriminator.modules() if isinstance(m, nn.Conv2d)]
        for layer in layers[:most]:
            wrap(layer)
        trainer = DcganTrainer(model, None, optimizers_of(model))
        before = [value.clone() for value in model.state_dict().values()]
        found = bool(trainer.is_bounded)
        assert same(model.state_dict().values(), before)  # which reading such a weight changes
        return found

    ways = nn.utils.parametrizations
    for spectral_norm in (ways.spectral_norm, nn.utils.spectral_norm):
        assert is_bounded(spectral_norm, 3)
        assert not is_bounded(spectral_norm, 1)
        assert not is_bounded(spectral_norm, 3, norm="batch")
    assert not is_bounded(ways.weight_norm, 3)
    assert not is_bounded(ways.spectral_norm, 0)


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
@pytest.mark.parametrize(
    ("data", "held"),
    [
        (images()[:3], r"\[3, 1, 8, 8\];"),
        ([images()[:3], torch.zeros(3)], r"\[3, 1, 8, 8\], \[3\];"),
        ([images()[:3]] * 3, r"(\[3, 1, 8, 8\](, |;)){3}"),
    ],
)
def test_data_that_are_not_pairs_of_images_are_told(name: str, data: Any, held: str) -> None:
    trainer = make(CASES[name])
    for use in (trainer.train_step, trainer.calculate_eval_batch_loss):
        with pytest.raises(ValueError, match=f"A batch holds {held} expected two tensors"):
            use(data)


def test_pools_need_the_shape_of_an_image() -> None:
    model = CASES["cyclegan"].make()
    del model.input_shape
    with pytest.raises(ValueError, match=r"Set model\.input_shape = .* or give pool_size=0"):
        CycleGanTrainer(model, None, optimizers_of(model))
    run(CycleGanTrainer(model, None, optimizers_of(model), (), pool_size=0), PAIRS)


@pytest.mark.parametrize("name", CASES)
def test_a_model_in_float64_is_trained_and_used(name: str) -> None:
    case = CASES[name]
    trainer = make(case._replace(make=lambda: case.make().double()))
    parts = case.data if isinstance(case.data, tuple) else (case.data,)
    data = tuple(part.double() if part.is_floating_point() else part for part in parts)
    run(trainer, data, eval_dataset=data)
    assert all(each.isfinite().all() for each in trainer.model.parameters())
    inferrer = trainer.inferrer_class.of(trainer.get_model())
    if hasattr(inferrer, "generate"):
        assert inferrer.generate(2, seed=0).dtype == torch.float64
    if name == "cyclegan":
        assert trainer.pools["a"].images.dtype == torch.float64


def test_no_graph_of_the_generator_is_built_where_it_is_not_trained() -> None:
    trainer, built = make(CASES["wgan-gp"]), []
    trainer.model.generator.register_forward_hook(
        lambda module, inputs, made: built.append(made.requires_grad)
    )
    run(trainer, images())
    assert built == [False, True] * 3


def test_optimizers_have_to_fit_the_model() -> None:
    model = dcgan([1, 8, 8], **GAN)
    with pytest.raises(ValueError, match="The optimizer is Adam; expected a dict.*generator"):
        DcganTrainer(model, None, adam(model.parameters()))
    with pytest.raises(ValueError, match=r"\['generator'\]; expected.*generator, discriminator"):
        DcganTrainer(model, None, {"generator": adam(model.parameters())})
    with pytest.raises(TypeError, match="The model is a Linear; expected.*models.dcgan"):
        DcganTrainer(nn.Linear(1, 1), None, {})
    with pytest.raises(ValueError, match="its loss is gan_loss. Give None"):
        DcganTrainer(model, nn.MSELoss(), optimizers_of(model))


def test_gradients_are_penalized_without_batch_norm() -> None:
    model = dcgan([1, 16, 16], **GAN)
    with pytest.raises(ValueError, match="this one has a BatchNorm2d.*norm='instance'"):
        DcganTrainer(model, None, optimizers_of(model), penalty_weight=10.0)


def test_shared_parameters_do_not_accumulate() -> None:
    """The encoder's gradients for one optimizer would reach the other."""
    trainer = make(CASES["aae"])
    with pytest.raises(ValueError, match="'reconstruction' and 'regularization' share parameters"):
        run(trainer, images(), gradient_accumulation_steps=2)


def test_accumulation_equals_the_whole_batch() -> None:
    """Where no loss waits for another's update, and no norm or draw mixes the samples."""
    trained = []
    for size, steps in ((4, 1), (2, 2)):
        trainer = make(CASES["cyclegan"], pool_size=100)
        trainer.model.double()
        trainer.pools.double()
        data = (PAIRS[0].double(), PAIRS[1].double())
        run(trainer, data, per_device_batch_size=size, gradient_accumulation_steps=steps)
        trained.append(trainer.model.state_dict())
        assert trainer.progress.step == 6
    for one, other in zip(trained[0].values(), trained[1].values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_evaluation_leaves_the_random_state_and_the_pools() -> None:
    for name in ("dcgan", "cyclegan"):
        trainer = make(CASES[name])
        before = global_states()
        trainer.evaluate(CASES[name].data)
        assert global_states() == before
    assert int(trainer.pools["a"].count) == 0


def test_images_are_made_interpolated_and_the_same_by_seed() -> None:
    model = seeded(CASES["dcgan"].make)
    inferrer = DcganInferrer(model)
    made = inferrer.generate(5, seed=1)
    assert made.shape == (5, 1, 8, 8)
    assert ((made >= 0) & (made <= 1)).all()
    assert torch.equal(made, inferrer.generate(5, seed=1))
    codes = inferrer.draw_codes(2, seed=4)
    between = inferrer.interpolate(codes[0], codes[1], steps=4)
    torch.testing.assert_close(between[[0, -1]], inferrer.decode(codes))
    assert model.training


def test_codes_are_encoded_classified_and_generated_by_class() -> None:
    x, model = images(), seeded(CASES["aae"].make)
    assert AutoencoderInferrer(model).reconstruct(x).shape == x.shape
    semi = seeded(CASES["semi"].make)
    inferrer = SemiSupervisedAaeInferrer(semi)
    codes = inferrer.encode(x)
    assert codes.shape == (12, 5)
    torch.testing.assert_close(codes[:, :3].sum(dim=1), torch.ones(12))
    assert torch.equal(inferrer.classify(x), codes[:, :3].argmax(dim=1))
    labels = torch.tensor([0, 1, 2])
    made = inferrer.generate(3, seed=1, labels=labels)
    assert torch.equal(made, inferrer.generate(3, seed=1, labels=labels))
    assert not torch.equal(made, inferrer.generate(3, seed=1, labels=labels.flip(0)))
    assert inferrer.generate(4, seed=1).shape == (4, 1, 8, 8)


def test_images_are_translated() -> None:
    x, model = images(), seeded(CASES["pix2pix"].make)
    made = Pix2PixInferrer(model).translate(x)
    assert made.shape == x.shape
    assert torch.equal(made, Pix2PixInferrer(model).translate(x))  # without dropout
    cycle = seeded(CASES["cyclegan"].make)
    inferrer = CycleGanInferrer(cycle)
    with torch.no_grad():
        torch.testing.assert_close(inferrer.translate(x), cycle.a_to_b(x))
        torch.testing.assert_close(inferrer.translate(x, "b_to_a"), cycle.b_to_a(x))
        torch.testing.assert_close(inferrer.reconstruct(x), cycle.b_to_a(cycle.a_to_b(x)))
    with pytest.raises(ValueError, match="direction is 'back'"):
        inferrer.translate(x, "back")  # type: ignore[arg-type]


def test_an_inferrer_reads_a_trainers_weights(tmp_path: Path) -> None:
    """L-101."""
    trainer = make(CASES["dcgan"])
    trainer.save_training_state(tmp_path / "state.ckpt")
    inferrer = DcganInferrer(seeded(CASES["dcgan"].make, seed=4))
    inferrer.load_model(tmp_path / "state.ckpt")
    expected = DcganInferrer(trainer.model).generate(3, seed=1)
    assert torch.equal(inferrer.generate(3, seed=1), expected)


def test_steps_that_differ_by_their_number_stay_eager() -> None:
    trainer = make(CASES["wgan-gp"], step_mode="auto", device="cpu")
    run(trainer, images())
    assert trainer.step_report.choice == "eager"
    assert "DcganTrainer has to run in the middle of a step" in trainer.step_report.reason
