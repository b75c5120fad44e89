"""Laws of alarms: said once, when they are due, and never of what is absent."""

import math

import pytest

from diffusion_jax.training import monitor

PATIENCE = 5  # as the alarms' sentences promise


def listen(history):
    """What is said after each line of a history, steps 10, 20, ..."""
    watch = monitor.TrainingMonitor()
    return [watch.push(10 * i + 10, line) for i, line in enumerate(history)]


def game(real, fake, i):
    """A line of an adversarial training; its losses move."""
    return {
        "disc/accuracy_real": real,
        "disc/accuracy_fake": fake,
        "disc/loss": 1.3 + 0.1 * math.sin(i),
        "gen/loss": 0.7 + 0.1 * math.cos(i),
    }


def said(history):
    """All warnings, with the number of the line they came after."""
    return [(i, text) for i, texts in enumerate(listen(history)) for text in texts]


def test_a_fair_game_is_silent():
    """A healthy training of any family, and empty lines, give no warning."""
    fair = [game(0.6 + 0.01 * (i % 3), 0.7, i) for i in range(30)]
    assert not said(fair)
    assert not said([{"loss": 100 / (i + 1), "kl": 0.5 * i} for i in range(30)])
    assert not said([{} for _ in range(30)])


def test_a_discriminator_that_wins():
    """Said after the fifth line in a row with both accuracies at .99 or more, and from
    which step on it is so."""
    history = [game(0.8, 0.8, i) for i in range(3)]
    history += [game(0.99, 1.0, i) for i in range(PATIENCE)]
    [(line, text)] = said(history)
    assert line == 3 + PATIENCE - 1
    assert text.startswith("The discriminator has won: since step 40 ")
    assert "lower the discriminator's learning rate" in text


@pytest.mark.parametrize("real,fake", [(1.0, 0.98), (0.98, 1.0)])
def test_both_must_be_told(real, fake):
    """Knowing one side alone is no victory: a constant answer does that."""
    assert not said([game(real, fake, i) for i in range(20)])


def test_in_a_row():
    """Four lines, one fair one and four lines again are no victory."""
    won = [game(1.0, 1.0, i) for i in range(PATIENCE - 1)]
    assert not said([*won, game(0.9, 0.9, 4), *won])


def test_once_until_it_clears():
    """However long it lasts, it is said once; again only after it has cleared."""
    won = [game(1.0, 1.0, i) for i in range(12)]
    history = [*won, game(0.7, 0.7, 0), *won]
    assert [line for line, _ in said(history)] == [4, 13 + 4]


@pytest.mark.parametrize(
    "covered,total,kind",
    [("classes_covered", "num_classes", "classes"), ("modes_covered", "num_modes", "")],
)
@pytest.mark.parametrize(
    "prefix,of_total", [("", ""), ("test_", "test_"), ("test_", "")]
)
def test_lost_modes(covered, total, kind, prefix, of_total):
    """One measurement with fewer than all is enough; seldom ones keep their value, and
    one with all clears it. A prefix is no matter."""
    history = [{prefix + covered: n, of_total + total: 10} for n in (10, 6, 5, 10, 9)]
    history[2:2] = [{"gen/loss": 0.5}]  # a line without measurements
    (first, text), (second, _) = said(history)
    assert (first, second) == (1, 5)
    assert text.startswith(f"Modes are lost: samples cover 6 of 10 {kind}")
    assert not said([{prefix + covered: 6}])  # of how many?


@pytest.mark.parametrize("name", ["loss", "disc/loss", "gen/loss"])
@pytest.mark.parametrize("value", [0.0, 0.6931, -37.5])
def test_a_frozen_loss(name, value):
    """Five values within 1e-4 of each other, relative, also zeros: it is frozen, and
    it alone is named."""
    still = [{name: value * (1 + 1e-5 * (i % 2)), "other/loss": i} for i in range(9)]
    [(line, text)] = said(still)
    assert line == PATIENCE - 1
    assert text.startswith(f"A loss is frozen: {name} ") and "since step 10." in text


def test_a_loss_that_moves_a_little():
    """Moves of 1e-3, relative, are a living loss."""
    assert not said([{"loss": 2.0 + 0.002 * (i % 2)} for i in range(20)])


def test_each_loss_has_its_own_alarm():
    """The second loss to freeze is named when it does."""
    history = [{"a/loss": 1.0, "b/loss": float(max(0, 4 - i))} for i in range(12)]
    (first, text_1), (second, text_2) = said(history)
    assert (first, second) == (4, 8) and "a/loss" in text_1 and "b/loss" in text_2


def test_collapse_by_units():
    """No active latent is collapse; one is not."""
    [(line, text)] = said(
        [{"active_units": n, "num_latents": 20} for n in (3, 1, 0, 0)]
    )
    assert line == 2 and "none of 20 latents" in text
    assert text.startswith("The posterior has collapsed: the decoder ignores the code;")


def test_collapse_by_nats():
    """A KL below .01 nats over five lines is collapse; a dip is not."""
    dips = [{"kl": kl} for kl in (0.5, 0.001, 0.001, 0.001, 0.001, 0.2)]
    assert not said(dips)
    [(line, text)] = said([{"kl": 0.3}] + [{"kl": 0.009}] * 7)
    assert line == PATIENCE and "kl is below 0.01 nats since step 20" in text


def test_several_at_once():
    """What is wrong in two ways is said in two sentences."""
    lost = {"modes_covered": 3, "num_modes": 25}
    texts = [text for _, text in said([game(1.0, 1.0, i) | lost for i in range(6)])]
    assert len(texts) == 2 and any("3 of 25 modes" in text for text in texts)
