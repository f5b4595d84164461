"""Augmentation: what each part does to each example, that it can be had again, and what it refuses."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from mgraph.data.making import make_task
from mgraph.data.splits import ArraySplit, Normalisation
from mgraph.errors import InputError
from mgraph.methods.curves.path import BezierCurve
from mgraph.methods.llpf.method import LLPF
from mgraph.methods.llpf.walk import batch_loss
from mgraph.methods.neb.method import NudgedElasticBand
from mgraph.network.flat import FlatModel
from mgraph.train import imageops
from mgraph.train.augmentation import augmentation, check_augmentation
from mgraph.train.augments import KINDS, Part, parse_augment
from mgraph.train.batches import Batches
from mgraph.train.mode import train_mode
from mgraph.train.settings import TrainSettings

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def images(count=6, channels=3, size=12, seed=0):
    """Random uint8 images without a black pixel, shape (count, channels, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(20, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


def split_of(x, mean=MEAN, std=STD):
    return ArraySplit(x, torch.arange(len(x)) % 3, mean, std)


def augmented(text, split, *, seed=0, number=1, indices=None):
    """What training sees of some examples; and the examples as they are."""
    found = augmentation(TrainSettings(augment=text, seed=seed), split)
    x, y = split.examples(torch.arange(len(split)) if indices is None else indices)
    return found(x, y, number)[0], x


def test_a_crop_is_a_window_of_the_bordered_image():
    split = split_of(images(40))
    out, x = augmented("crop3", split)
    black = split.normalisation(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    bordered = black.expand(40, 3, 18, 18).clone()
    bordered[:, :, 3:15, 3:15] = x
    seen = set()
    for image, wide in zip(out, bordered, strict=True):
        places = [
            (a, b)
            for a in range(7)
            for b in range(7)
            if torch.allclose(image, wide[:, a : a + 12, b : b + 12], atol=1e-6)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 15  # each its own
    assert {a for a, _ in seen} == set(range(7))


def test_a_flip_mirrors_half_of_the_images():
    split = split_of(images(200))
    out, x = augmented("flip", split)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(out, x, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, out, x, strict=True))
    assert 70 < sum(mirrored) < 130


def test_a_rotation_is_torchvisions_by_an_angle_of_its_own():
    split = split_of(images(5, size=16), None, None)
    chance = imageops.Chance(
        torch.Generator().manual_seed(3), torch.Generator(), torch.zeros(3, 1, 1), Normalisation(None, None)
    )
    x = split.examples(torch.arange(5))[0]
    out = imageops.rotate(x, 40, chance)
    angles = (torch.rand(5, generator=torch.Generator().manual_seed(3)) * 2 - 1) * 40
    for image, before, angle in zip(out, x, angles, strict=True):
        turned = v2.functional.rotate(before, float(angle), v2.InterpolationMode.BILINEAR)
        # where four pixels of the image meet, torchvision's border is the only difference
        assert torch.allclose(image[:, 4:-4, 4:-4], turned[:, 4:-4, 4:-4], atol=1e-4)
    assert angles.abs().max() <= 40


def test_what_turns_into_view_is_black():
    split = split_of(torch.full((8, 3, 12, 12), 255, dtype=torch.uint8))
    out, _ = augmented("rotate45", split)
    black, white = (split.normalisation(torch.full((1, 3, 1, 1), v, dtype=torch.uint8))[0] for v in (0, 255))
    assert torch.isclose(out, black).any()
    assert bool((out >= black - 1e-5).all() & (out <= white + 1e-5).all())


def test_cutout_hides_a_square_of_each_image_behind_the_mean():
    split = split_of(images(60, size=10))
    out, x = augmented("cutout4", split)
    hidden = (out == 0).all(1)
    assert torch.equal(out[~hidden[:, None].expand_as(out)], x[~hidden[:, None].expand_as(x)])
    rows, columns = hidden.any(2).sum(1), hidden.any(1).sum(1)
    assert torch.equal(hidden.sum((1, 2)), rows * columns)  # rectangles
    assert rows.max() == columns.max() == 4
    assert rows.min() == 2  # a centre may lie at the border
    assert len({tuple(row.tolist()) for row in hidden.flatten(1)}) > 30


@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_of_randaugment_are_torchvisions(magnitude, channels):
    x = images(2, channels, 16)
    theirs = v2.RandAugment(magnitude=magnitude)
    mine = imageops._operations(magnitude, 16, 16)
    assert len(mine) == len(theirs._AUGMENTATION_SPACE)
    for (operation, amount), (name, (amounts, signed)) in zip(mine, theirs._AUGMENTATION_SPACE.items(), strict=True):
        given = amounts(31, 16, 16)
        given = 0.0 if given is None else float(given[magnitude] if given.ndim else given)
        for sign in (1, -1) if signed else (1,):
            expected = theirs._apply_image_or_video_transform(
                x, name, sign * given, interpolation=theirs.interpolation, fill={torch.Tensor: None}
            )
            difference = operation(x, sign * amount).int() - expected.int()
            assert difference.abs().max() <= 1, name  # amounts are float32 there


def test_randaugment_changes_each_image_in_its_own_way_and_keeps_the_normalisation():
    one = images(1, size=16).expand(64, -1, -1, -1).contiguous()
    split = split_of(one)
    out, x = augmented("randaugment12", split)
    assert len({image.numpy().tobytes() for image in out}) > 20
    levels = (out * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert -1e-3 < levels.min() < levels.max() < 255.001
    unmoved, _ = augmented("randaugment0", split)
    same = [torch.allclose(image, x[0], atol=1e-6) for image in unmoved]
    assert any(same)
    assert not all(same)  # autocontrast and equalize have no magnitude


@pytest.mark.parametrize("text", ["crop2", "flip", "rotate20", "cutout3", "randaugment", "crop2+flip+rotate9+cutout3"])
def test_random_numbers_come_from_seed_and_number_alone(text):
    split = split_of(images(30))
    first, x = augmented(text, split)
    torch.rand(3), np.random.random(), random.random()
    assert torch.equal(first, augmented(text, split)[0])
    assert not torch.equal(first, augmented(text, split, number=2)[0])
    assert not torch.equal(first, augmented(text, split, seed=1)[0])
    assert torch.equal(x, split.examples(torch.arange(30))[0])  # the data stay as they are


def test_batches_say_where_they_stand_and_go_on_there():
    split, how = split_of(images(30)), TrainSettings(augment="crop2+flip")

    def stream():
        order = torch.Generator().manual_seed(1)
        return Batches(split, 8, order, torch.device("cpu"), augment=augmentation(how, split))

    whole = stream()
    taken = [next(whole) for _ in range(5)]
    place = whole.position, whole.pass_state, whole.number
    rest = [next(whole) for _ in range(6)]
    later = stream()
    later.go_to(*place)
    for (x, y), (u, v) in zip(rest, [next(later) for _ in range(6)], strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    assert len(taken) == 5
    plain = Batches(split, 8, torch.Generator().manual_seed(1), torch.device("cpu"))
    assert torch.equal(next(plain)[1], taken[0][1])  # the order is that of a run without


def test_float_images_are_bordered_by_what_is_stored_as_zero():
    raw = images(4).float() / 255
    split = ArraySplit(raw, torch.arange(4), MEAN, STD)
    out, _ = augmented("crop3", split, number=5)
    reference, _ = augmented("crop3", split_of(images(4)), number=5)
    assert torch.allclose(out, reference, atol=1e-5)


def image_task(x=None, y=None):
    x = images(48, 1, 8) if x is None else x
    y = torch.arange(len(x)) % 3 if y is None else y
    return make_task(train=(x, y), valid=(x, y), test=(x, y), classes=3, mean=0.5, std=0.25)


def test_a_mode_is_trained_on_changed_images_and_nothing_else_sees_them(tmp_path, monkeypatch):
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

        def forward(self, x):
            seen.append(x.clone())
            return self.net(x)

    task = image_task()
    flat = FlatModel(Watching())
    train_mode(flat, task, TrainSettings(epochs=1, batch_size=16, augment="cutout4"))
    whole = task.train.examples(torch.arange(48))[0]
    stored = {image.numpy().tobytes() for image in whole}
    assert len(seen) == 3
    assert sum(image.numpy().tobytes() in stored for batch in seen for image in batch) == 0
    assert torch.equal(whole, task.train.examples(torch.arange(48))[0])


def network(seed=0):
    torch.manual_seed(seed)
    return FlatModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))


def test_a_walks_own_loss_is_of_augmented_batches():
    how = LLPF(batch_size=16, augment="cutout6")
    task, flat = image_task(), network()
    with_it = batch_loss(flat, task.loss, task.train, how)
    assert with_it == batch_loss(flat, task.loss, task.train, how)
    assert with_it != batch_loss(flat, task.loss, task.train, replace(how, augment=None))


OWN = """
import random
import numpy
import torch

def noisy(x):
    return x + torch.randn_like(x) * random.random() + float(numpy.random.random())

def swapped(x, y):
    return x.flip(0), y.flip(0)

class Scale:
    def __call__(self, x, factor=2.0):
        return x * factor

scaled = Scale()

def smaller(x):
    return x[..., 1:]

def doubled(x):
    return x.double()

def fails(x):
    raise ValueError("no such luck")

def halved(x, y):
    return x

def alone(x, y):
    return x, y[1:]

nothing = lambda x: None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)


def test_a_function_of_ones_own(own):
    split = split_of(images(6))
    first, x = augmented("own.py:noisy", split)
    python, numpy, torchs = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    assert torch.equal(first, augmented("own.py:noisy", split)[0])
    assert not torch.equal(first, augmented("own.py:noisy", split, number=2)[0])
    assert python == random.getstate()  # its draws are nobody else's
    assert np.array_equal(numpy, np.random.get_state()[1])
    assert torch.equal(torchs, torch.get_rng_state())
    assert torch.equal(augmented("own.py:scaled", split)[0], 2 * x)
    found = augmentation(TrainSettings(augment="own.py:swapped"), split)
    u, v = found(x, torch.arange(6), 1)
    assert torch.equal(u, x.flip(0))
    assert torch.equal(v, torch.arange(6).flip(0))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smaller", r"same shape and of type float32, not one of shape \(2, 1, 8, 7\)"),
        ("doubled", "of type float32, not one of .* type float64"),
        ("fails", "failed: ValueError: no such luck"),
        ("halved", r"takes \(x, y\) and must return both"),
        ("alone", "a target for each input, not one of shape"),
        ("nothing", "not a NoneType"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_before_it_trains(own, name, message):
    with pytest.raises(InputError, match=message):
        check_augmentation(network(), image_task(), TrainSettings(augment=f"own.py:{name}"))


def test_how_it_is_written():
    assert parse_augment("crop4+flip") == (Part("crop", 4), Part("flip"))
    assert parse_augment("randaugment + cutout8") == (Part("randaugment", 9), Part("cutout", 8))
    assert set(KINDS) == set(imageops.OPERATIONS)


@pytest.mark.parametrize("method", [TrainSettings, BezierCurve, NudgedElasticBand, LLPF])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crip4", "no part 'crip4'; there are .* Did you mean crop4"),
        ("crop4+flop", "no part 'flop'.* Did you mean flip"),
        ("crop", "crop needs a number .* as in crop4"),
        ("crop0", "is 1 to 1024, not 0"),
        ("flip2", "takes no number"),
        ("rotate181", "1 to 180"),
        ("randaugment31", "0 to 30"),
        ("crop4+own.py:noisy", "beside crop4"),
        ("crop4,flip", "no part"),
        ("own.py:noisy?a=1", "without parameters"),
    ],
)
def test_what_is_no_augmentation_is_refused_by_name(method, text, message):
    with pytest.raises(InputError, match=message):
        method(augment=text)


@pytest.mark.parametrize(
    ("text", "x", "message"),
    [
        ("flip", torch.rand(9, 64), r"for images, shape \(channels, height, width\); an input here has shape \(64,\)"),
        ("flip", torch.zeros(9, 1, 8, 8, dtype=torch.int64), "type int64"),
        ("crop8", images(9, 1, 8), "too large for images of 8×8"),
        ("cutout9", images(9, 1, 8), "too large"),
        ("randaugment", torch.randn(9, 3, 8, 8), "needs to know black and white"),
        ("randaugment", images(9, 2, 8), "1 or 3 channels"),
    ],
)
def test_data_that_it_does_not_suit_are_refused(text, x, message):
    task = make_task(train=(x, torch.arange(9) % 3), test=(x, torch.arange(9) % 3), valid=(x, torch.arange(9) % 3))
    with pytest.raises(InputError, match=message):
        augmentation(TrainSettings(augment=text), task.train)


def test_pixels_do_not_move_away_from_their_labels():
    x, y = images(6, 3, 8), torch.zeros(6, 8, 8, dtype=torch.int64)
    split = ArraySplit(x, y)
    with pytest.raises(InputError, match="targets have a value for each"):
        augmentation(TrainSettings(augment="flip"), split)
    assert augmentation(TrainSettings(augment="cutout3"), split) is not None
