"""Laws of the monitor: each problem is reported once, when it is due."""

import math

import pytest

from diffusion_jax.training.monitor import TrainingMonitor

PATIENCE = 5  # logged values in a row, as the documentation says


LOSSES = ("loss", "disc/loss", "gen/loss")


def listen(history, losses=LOSSES):
    """The warnings after each line of a history, steps 10, 20, ..."""
    monitor = TrainingMonitor(losses)
    return [monitor.push(10 * i + 10, line) for i, line in enumerate(history)]


def game(real, fake, i):
    """A line of an adversarial training; its losses move."""
    return {
        "disc/accuracy_real": real,
        "disc/accuracy_fake": fake,
        "disc/loss": 1.3 + 0.1 * math.sin(i),
        "gen/loss": 0.7 + 0.1 * math.cos(i),
    }


def warned(history, **options):
    """All warnings, with the number of the line they came after."""
    lines = enumerate(listen(history, **options))
    return [(i, text) for i, texts in lines for text in texts]


def test_a_fair_game_is_silent():
    """A healthy training of any family, and empty lines, give no warning."""
    fair = [game(0.6 + 0.01 * (i % 3), 0.7, i) for i in range(30)]
    assert not warned(fair)
    assert not warned([{"loss": 100 / (i + 1), "kl": 0.5 * i} for i in range(30)])
    assert not warned([{} for _ in range(30)])


def test_a_discriminator_that_wins():
    """Reported after the fifth line in a row with both accuracies at .99 or more, with
    the first of these steps."""
    history = [game(0.8, 0.8, i) for i in range(3)]
    history += [game(0.99, 1.0, i) for i in range(PATIENCE)]
    [(line, text)] = warned(history)
    assert line == 3 + PATIENCE - 1
    assert text.startswith("The discriminator has won: since step 40 ")
    assert "Lower the discriminator's learning rate" in text


@pytest.mark.parametrize("real,fake", [(1.0, 0.98), (0.98, 1.0)])
def test_both_accuracies_must_be_high(real, fake):
    """Being right about one side only is no victory: a constant answer does that."""
    assert not warned([game(real, fake, i) for i in range(20)])


def test_in_a_row():
    """Four lines, one fair one and four lines again are no victory."""
    won = [game(1.0, 1.0, i) for i in range(PATIENCE - 1)]
    assert not warned([*won, game(0.9, 0.9, 4), *won])


def test_once_until_it_clears():
    """However long it lasts, it is reported once; again only after it has cleared."""
    won = [game(1.0, 1.0, i) for i in range(12)]
    history = [*won, game(0.7, 0.7, 0), *won]
    assert [line for line, _ in warned(history)] == [4, 13 + 4]


@pytest.mark.parametrize("kind", ["classes", "modes"])
def test_missing_modes(kind):
    """One evaluation with fewer than all is enough; rare ones keep their value, and one
    with all clears it."""
    covered, total = f"{kind}_covered", f"num_{kind}"
    history = [{covered: n, total: 10} for n in (10, 6, 5, 10, 9)]
    history[2:2] = [{"gen/loss": 0.5}]  # a line without an evaluation
    (first, text), (second, _) = warned(history)
    assert (first, second) == (1, 5)
    assert text.startswith(f"Modes are missing: the samples cover 6 of 10 {kind}")
    assert not warned([{covered: 6}])  # of how many?


def test_other_names_are_ignored():
    """Only exact names count: neither a prefix nor a suffix makes a metric known, and a
    loss is what the caller says is one."""
    line = {"test_classes_covered": 1, "test_num_classes": 9, "my_kl": 0, "x/loss": 1}
    assert not warned([line] * 9)
    assert len(warned([line] * 9, losses=("x/loss",))) == 1


@pytest.mark.parametrize("name", ["loss", "disc/loss", "gen/loss"])
@pytest.mark.parametrize("value", [0.0, 0.6931, -37.5])
def test_a_frozen_loss(name, value):
    """Five values within 1e-4 of each other, relative, also zeros, are frozen; only
    that loss is named."""
    still = [{name: value * (1 + 1e-5 * (i % 2)), "other/loss": i} for i in range(9)]
    [(line, text)] = warned(still, losses=(*LOSSES, "other/loss"))
    assert line == PATIENCE - 1
    assert text.startswith(f"A loss is frozen: {name} ") and "since step 10." in text


def test_a_loss_that_moves_a_little():
    """Changes of 1e-3, relative, are a healthy loss."""
    assert not warned([{"loss": 2.0 + 0.002 * (i % 2)} for i in range(20)])


def test_each_loss_has_its_own_warning():
    """The second loss to freeze is named when it freezes."""
    history = [{"a/loss": 1.0, "b/loss": float(max(0, 4 - i))} for i in range(12)]
    (first, text_1), (second, text_2) = warned(history, losses=("a/loss", "b/loss"))
    assert (first, second) == (4, 8) and "a/loss" in text_1 and "b/loss" in text_2


def test_collapse_by_units():
    """No active latent is collapse; one is not."""
    [(line, text)] = warned(
        [{"active_units": n, "num_latents": 20} for n in (3, 1, 0, 0)]
    )
    assert line == 2 and "none of 20 latents" in text
    assert text.startswith(
        "The posterior has collapsed: the decoder ignores the latents; "
    )


def test_collapse_by_nats():
    """A KL below .01 nats over five lines is collapse; a dip is not."""
    dips = [{"kl": kl} for kl in (0.5, 0.001, 0.001, 0.001, 0.001, 0.2)]
    assert not warned(dips)
    [(line, text)] = warned([{"kl": 0.3}] + [{"kl": 0.009}] * 7)
    assert line == PATIENCE and "kl has been below 0.01 nats since step 20" in text


def test_several_at_once():
    """Two problems are two warnings."""
    lost = {"modes_covered": 3, "num_modes": 25}
    texts = [text for _, text in warned([game(1.0, 1.0, i) | lost for i in range(6)])]
    assert len(texts) == 2 and any("3 of 25 modes" in text for text in texts)
