"""What the experiments say of themselves: published numbers with their source, steps that agree with each other."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from typing import Any

import pytest

from mgraph.errors import InputError, NotFoundError
from mgraph.repro.data import DATA
from mgraph.repro.experiment import SCALES, Number, Published, Spread
from mgraph.repro.ledger import identity
from mgraph.repro.registry import EXPERIMENTS, check_scale, experiment_named, rows_named
from mgraph.repro.steps import Join, Size, Train, Work

ALL = list(EXPERIMENTS.values())


def steps(experiment: Any, scale: str) -> list[Any]:
    """List the steps of the first repeat."""
    trials = [(row, trial) for row in experiment.rows if scale in row.setups for trial in row.trials(scale)]
    return [step for row, trial in trials if trial.repeat == 0 for step in row.steps(trial)]


@pytest.mark.parametrize("experiment", ALL, ids=lambda e: e.name)
def test_rows_are_complete(experiment: Any) -> None:
    names = [row.name for row in experiment.rows]
    assert len(set(names)) == len(names)
    known = {q.name for q in experiment.quantities}
    for row in experiment.rows:
        assert set(row.published) <= known
        assert set(row.setups) <= set(SCALES)
        for published in row.published.values():
            assert published.source
            # A number, or words that say why there is none.
            assert (published.value is None) == bool(published.said)
        assert all(setup.net.data in DATA for setup in row.setups.values())
    assert experiment.paper.lower() == experiment.name[0]


def test_steps_of_equal_names_are_the_same_step() -> None:
    """Experiments of a paper share a graph at each scale, and what has one name is made once."""
    found: dict[tuple[str, str, str], str] = {}
    for experiment in ALL:
        for scale in experiment.scales:
            for step in steps(experiment, scale):
                if isinstance(step, Train | Join):
                    key = (experiment.paper, scale, step.name)
                    how = step.settings if isinstance(step, Train) else step.method
                    assert is_dataclass(how)
                    text = repr((step.net, asdict(how), getattr(step, "ends", None)))
                    assert found.setdefault(key, text) == text, key
                    assert len(step.name) <= 64


def test_both_columns_take_the_same_number_of_passes() -> None:
    size, compared = Size(1000, 45000, 5000, 10000, False), 0
    for experiment in (e for e in ALL if e.same_cost):
        for scale in experiment.scales:
            joins = {s.name: s.work(size).trained for s in steps(experiment, scale) if isinstance(s, Join)}
            for name in joins:
                if name.endswith("faithful"):
                    assert joins[name] == pytest.approx(joins[name.replace("faithful", "ours")]), name
                    compared += 1
    assert compared > 50


def test_what_makes_a_row_the_same_can_be_written_down() -> None:
    for experiment in ALL:
        for row in experiment.rows:
            for scale in row.setups:
                written = json.loads(json.dumps(identity(experiment, row, scale)))
                assert written["net"]["arch"] == row.setups[scale].net.arch
                assert set(written["options"]) == set(row.setups[scale].options)


def test_work_is_counted_by_hand() -> None:
    size = Size(parameters=100, train=1000, valid=10, test=20, batchnorm=True)
    found = steps(EXPERIMENTS["s-table2"], "paper")
    mode = next(s for s in found if isinstance(s, Train))
    assert mode.work(size) == Work(40 * 1000, 1030, 400)
    ours = next(s for s in found if s.name == "cnn-0-3x3-ours")
    # 15 values for 2·6, 3·9 and 10 passes; 121 points, with statistics from all 1000 examples; five free points.
    assert ours.work(size) == Work(15 * (12 + 27 + 10) * 1000, 121 * (1030 + 1000), 5 * 400)


def test_a_bands_looks_between_its_pivots_are_counted() -> None:
    size = Size(parameters=100, train=1000, valid=10, test=20, batchnorm=False)
    band = next(s for s in steps(EXPERIMENTS["n-minima"], "small") if s.name == "cnn-0-band-fast-0-faithful")
    # Nine pivots: two cycles of batches of 256, and three looks at 10 gaps of nine points and at all points of the
    # band, on all 1000 images; then a grid of three in each gap on train and test data.
    work = band.work(size)
    assert work.trained == (60 + 40) * 9 * 256
    assert work.forward == 3 * (10 * 9 + 11) * 1000 + (10 * 3 + 11) * (1000 + 20)


def test_repeats_give_a_mean_and_its_error() -> None:
    spread = Spread((1.0, 2.0, 3.0), (None, None, None))
    assert (spread.mean, spread.error) == (2.0, pytest.approx(3**-0.5))
    assert Spread((1.0,), (0.25,)).error == 0.25
    assert Number(1.0) == (1.0, None)
    assert Published(None, "figure 3", "not legible").shown == "not legible"


def test_names_are_told_the_closest() -> None:
    with pytest.raises(InputError, match="Did you mean s-table2"):
        experiment_named("stable2")
    with pytest.raises(InputError, match=r"no row '3x2'.*Did you mean.* 3x3"):
        rows_named(EXPERIMENTS["s-table2"], ["3x2"])
    with pytest.raises(InputError, match="not 'large'"):
        check_scale(EXPERIMENTS["s-table2"], "large", EXPERIMENTS["s-table2"].rows)
    with pytest.raises(InputError, match="only at tiny, paper"):
        check_scale(EXPERIMENTS["l-dla"], "small", EXPERIMENTS["l-dla"].rows)


def test_missing_data_say_what_to_download(tmp_path: Any) -> None:
    for name, said in (
        ("cifar10", "cifar-10-batches-py"),
        ("mnist", "MNIST"),
        ("tiny-imagenet", "tiny-imagenet-200"),
        ("ptb", "train.txt"),
    ):
        with pytest.raises(NotFoundError, match=f"download it from http.*{said}.*--data"):
            DATA[name].spec(tmp_path)
    (tmp_path / "cifar10.npz").touch()
    for place in (tmp_path, tmp_path / "cifar10.npz"):
        assert DATA["cifar10"].spec(place, 1000).startswith(f"npz:{tmp_path}/cifar10.npz?mean=0.4914,")
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar10.npz").unlink()
    assert DATA["cifar10"].spec(tmp_path) == f"cifar10?root={tmp_path}"
