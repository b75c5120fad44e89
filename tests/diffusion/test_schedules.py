"""Schedules against the papers, and against independently computed tables."""

import itertools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook

from diffusion_jax.diffusion import schedules

LENGTHS = (1, 2, 1000, 4000)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("linear", 4.03582976538e-5),
        ("quad", 7.334124596e-4),
        ("const", 1.682967e-9),
        ("jsd", 0.0),
        ("cosine", 2.428767e-9),
    ],
)
def test_last_alpha_bar(name, expected):
    """alpha_bar_T of each schedule at T = 1000 is the published one."""
    actual = schedules.alpha_bar(schedules.SCHEDULES[name](1000))[-1]
    np.testing.assert_allclose(actual, expected, rtol=3e-7)


def test_alpha_bar_along_the_linear_schedule():
    """alpha_bar at three times, and the first time below a half (authors' 259)."""
    alpha_bar = schedules.alpha_bar(schedules.linear(1000))
    np.testing.assert_allclose(
        alpha_bar[[0, 499, 999]],
        [0.9999, 0.0785872428818, 4.03582976538e-5],
        rtol=1e-11,
    )
    assert np.argmax(alpha_bar < 0.5) == 259


def test_4000_steps_of_a_quarter():
    """iDDPM's 4000 steps: the betas of 1000 steps, divided by four."""
    alpha_bar = schedules.alpha_bar(schedules.linear(4000, 1e-4 / 4, 0.02 / 4))
    np.testing.assert_allclose(alpha_bar[-1], 4.246652e-5, rtol=3e-7)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
@pytest.mark.parametrize("num_timesteps", LENGTHS)
def test_tables(name, num_timesteps):
    """A table has T non-decreasing variances in (0, 1], in float64."""
    betas = schedules.SCHEDULES[name](num_timesteps)
    assert betas.shape == (num_timesteps,)
    assert betas.dtype == np.float64
    assert np.all(betas > 0) and np.all(betas <= 1) and np.all(betas[:-1] < 1)
    assert np.all(np.diff(betas) >= 0)


def test_definitions():
    """Each table by its definition, elementwise."""
    i = np.arange(1000)
    line = 1e-4 + (0.02 - 1e-4) * i / 999
    np.testing.assert_allclose(schedules.linear(1000), line, rtol=1e-12)
    roots = 0.01 + (0.02**0.5 - 0.01) * i / 999
    np.testing.assert_allclose(schedules.quad(1000), roots**2, rtol=1e-12)
    np.testing.assert_array_equal(schedules.const(1000), 0.02)
    np.testing.assert_allclose(schedules.jsd(1000), 1 / (1000 - i), rtol=1e-15)
    for name, ramp in (("warmup10", 100), ("warmup50", 500)):
        expected = np.minimum(1e-4 + (0.02 - 1e-4) * i / (ramp - 1), 0.02)
        betas = schedules.SCHEDULES[name](1000)
        np.testing.assert_allclose(betas, expected, rtol=1e-12)


def test_jsd_loses_signal_linearly():
    """The jsd schedule has alpha_bar_t = 1 - t/T."""
    alpha_bar = schedules.alpha_bar(schedules.jsd(1000))
    np.testing.assert_allclose(alpha_bar, 1 - np.arange(1, 1001) / 1000, atol=1e-13)


def test_cosine_is_a_cosine():
    """alpha_bar_t = f(t) / f(0) except where beta is capped at 0.999."""
    betas = schedules.cosine(1000)
    capped = betas >= 0.999
    assert betas.max() == 0.999 and capped.sum() == 1
    angle = (np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2
    f = np.cos(angle) ** 2 / np.cos(angle[0]) ** 2
    alpha_bar = schedules.alpha_bar(betas)
    np.testing.assert_allclose(alpha_bar[~capped], f[1:][~capped], rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", schedules.SCHEDULES)
@pytest.mark.parametrize("num_timesteps", LENGTHS)
def test_log_snr(name, num_timesteps):
    """exp(logsnr_t) = alpha_bar_t / (1 - alpha_bar_t), falling from +inf at t = 0."""
    betas = schedules.SCHEDULES[name](num_timesteps)
    schedule = schedules.make(name, num_timesteps)
    logsnr = np.asarray(schedule(np.arange(num_timesteps + 1)))
    assert logsnr.dtype == np.float64
    assert logsnr[0] == np.inf
    assert np.all(np.diff(logsnr) < 0)
    alpha_bar = textbook.table(betas).alpha_bar
    # 1 - alpha_bar costs the textbook 1e-16 / (1 - alpha_bar_1).
    np.testing.assert_allclose(
        np.exp(logsnr[1:]), alpha_bar / (1 - alpha_bar), rtol=1e-11
    )
    assert np.isneginf(logsnr[-1]) == (betas[-1] == 1) == schedule.ends_in_noise


@pytest.mark.usefixtures("x64")
def test_ends_of_the_linear_schedule():
    """The SNR of the first time is 9999; sigma / alpha reaches 157.40728 at T."""
    schedule = schedules.make("linear", 1000)
    np.testing.assert_allclose(np.exp(schedule(1)), 9999, rtol=1e-11)
    np.testing.assert_allclose(np.exp(-0.5 * schedule(1000)), 157.40728, rtol=3e-8)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_noise_in_single_precision(name):
    """In float32, 1 - alpha_bar keeps the relative precision that a table loses.

    Rounding a log-SNR of up to 20 changes sigma^2 by at most 20 x 2^-24 = 1.2e-6; at
    t = 1 of the linear schedule the error is a few units of rounding (2^-24 = 6e-8),
    while 1 - float32(alpha_bar) is off by 1.7e-4.
    """
    exact = 1 - textbook.table(schedules.SCHEDULES[name](1000)).alpha_bar
    logsnr = schedules.make(name, 1000)(np.arange(1, 1001))
    assert logsnr.dtype == jnp.float32
    actual = np.asarray(jax.nn.sigmoid(-logsnr), np.float64)
    np.testing.assert_allclose(actual, exact, rtol=1.5e-6)
    if name == "linear":
        naive = np.float64(np.float32(1) - np.float32(0.9999))
        assert abs(naive / exact[0] - 1) > 1e-4
        assert abs(actual[0] / exact[0] - 1) < 1.2e-7


@hypothesis.given(
    betas=st.lists(st.floats(1e-5, 0.999), min_size=7, max_size=7),
    pure_noise=st.booleans(),
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_any_table(betas, pure_noise):
    """Any table in range has falling log-SNR, infinite at 0 and for a last beta 1."""
    table = np.array(betas + [1.0] if pure_noise else betas)
    logsnr = np.asarray(schedules.from_betas(table)(np.arange(len(table) + 1)))
    assert np.all(np.diff(logsnr) < 0)
    assert np.isposinf(logsnr[0])
    assert np.all(np.isfinite(logsnr[1:-1]))
    assert np.isneginf(logsnr[-1]) == pure_noise


@pytest.mark.parametrize(
    "betas, words",
    [
        ([0.1, 0.0], "beta_2"),
        ([-0.1, 0.1], "beta_1"),
        ([0.1, 1.0, 0.1], "beta_2"),
        ([0.1, 1.1], "beta_2"),
        ([0.1, float("nan")], "beta_2"),
        ([], "table"),
        ([[0.1]], "table"),
    ],
)
def test_invalid_tables(betas, words):
    """A beta outside (0, 1), except a last one of 1, raises an error with its time."""
    with pytest.raises(ValueError, match=words):
        schedules.from_betas(np.array(betas))


def test_invalid_names_and_lengths():
    """An unknown schedule raises an error with the known ones; T = 0 raises one too."""
    with pytest.raises(ValueError, match="diffusion.schedule 'liner'.*linear.*cosine"):
        schedules.make("liner", 10)
    with pytest.raises(ValueError, match="at least 1"):
        schedules.make("linear", 0)


# Laws of tables and curves.

ALL = [*schedules.SCHEDULES, *schedules.CURVES]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", schedules.CURVES)
def test_curves_fall(name):
    """Log-SNR decreases from +inf at 0 and is finite in 1..T; floats equal integers."""
    schedule = jax.jit(schedules.make(name, 1000))
    logsnr = np.asarray(schedule(np.arange(1001)))
    assert logsnr[0] == np.inf
    assert np.all(np.isfinite(logsnr[1:])) and np.all(np.diff(logsnr) < 0)
    np.testing.assert_array_equal(schedule(np.arange(1001.0)), logsnr)


def times_with_signal(name, num_timesteps):
    """37 times per unit; jsd has no signal left in the last interval."""
    last = num_timesteps - (name == "jsd")
    return np.linspace(1, last, 37 * (last - 1) + 1)


@pytest.mark.usefixtures("x64")
def test_time_is_the_inverse():
    """time(logsnr(t)) = t for any t in [1, T], in float64; values out of range map to
    the nearest end, and clean data to 0.

    The sigmoid curve reaches its minimum, 1e-9, at T (1 - 3e-9).
    """

    def round_trip(schedule, t):
        logsnr = schedule(t)
        outside = [jnp.inf, logsnr[0] + 1, logsnr[-1] - 1, -jnp.inf]
        return logsnr, schedule.time(jnp.append(logsnr, jnp.stack(outside)))

    made = {name: schedules.make(name, 20) for name in ALL}
    times = {name: times_with_signal(name, 20) for name in ALL}
    run = jax.jit(lambda times: {n: round_trip(made[n], times[n]) for n in ALL})
    for name, (logsnr, actual) in run(times).items():
        t = times[name]
        assert np.all(np.diff(logsnr) < 0)
        np.testing.assert_allclose(actual[:-4], t, rtol=1e-8, err_msg=name)
        ends = [0, 1, t[-1], 20]
        np.testing.assert_allclose(actual[-4:], ends, rtol=1e-8, err_msg=name)


def test_time_in_single_precision():
    """In float32, time(logsnr(t)) is accurate to 1e-5 of T."""
    t = {name: np.float32(times_with_signal(name, 20)) for name in ALL}
    made = {name: schedules.make(name, 20) for name in ALL}
    run = jax.jit(lambda t: {n: made[n].time(made[n](t[n])) for n in ALL})
    for name, actual in run(t).items():
        assert actual.dtype == jnp.float32
        np.testing.assert_allclose(actual, t[name], rtol=0, atol=2e-4, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_slope():
    """Log-SNR has a derivative at every time in [1, T], including integers and both
    ends: the finite difference.

    A table is linear between integers; curves are smooth: to 1e-4. The sigmoid curve is
    flat at T, where it reaches its minimum.
    """
    made = {name: schedules.make(name, 20) for name in ALL}
    times = {name: times_with_signal(name, 20) for name in ALL}
    times["sigmoid"] = times["sigmoid"][:-1]
    steps = {name: np.where(t < t[-1], 1e-7, -1e-7) for name, t in times.items()}

    @jax.jit
    def run(times, steps):
        def at(name, t):
            return jax.jvp(made[name], (t,), (jnp.ones_like(t),))

        return {
            name: (at(name, t), at(name, t + steps[name]), at(name, jnp.array([20.0])))
            for name, t in times.items()
        }

    for name, found in run(times, steps).items():
        (level, slope), (nearby, _), (_, at_T) = found
        near = (nearby - level) / steps[name]
        if name == "jsd":  # the last interval falls to -inf
            slope, near = slope[:-1], near[:-1]
        np.testing.assert_allclose(slope, near, rtol=1e-4, err_msg=name)
        assert np.all(np.isfinite(at_T)) or name == "jsd"


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_tables_are_linear_between_integer_times(name):
    """logsnr(t + u) = (1 - u) logsnr(t) + u logsnr(t + 1), for t in 1..T-1."""
    schedule = schedules.make(name, 1000)
    table = np.asarray(schedule(np.arange(1, 1001)))
    u = np.random.default_rng(0).uniform(size=999)
    between = schedule(np.arange(1, 1000) + u)
    expected = (1 - u) * table[:-1] + u * table[1:]
    np.testing.assert_allclose(between, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_sigmoid_of_the_paper():
    """alpha_bar of Chen's algorithm 1, in NumPy: from -3 to 3, at least 1e-9."""
    s = 1 / (1 + np.exp(-(-3 + 6 * np.arange(1, 1001) / 1000)))
    start, end = 1 / (1 + np.exp(3)), 1 / (1 + np.exp(-3))
    alpha_bar = np.maximum((end - s) / (end - start), 1e-9)
    logsnr = np.asarray(schedules.make("sigmoid", 1000)(np.arange(1, 1001)))
    np.testing.assert_allclose(1 / (1 + np.exp(-logsnr)), alpha_bar, rtol=1e-11)
    np.testing.assert_allclose(1 / (1 + np.exp(logsnr)), 1 - alpha_bar, rtol=1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("image_size", [32, 64, 256])
def test_shifted_cosine_of_the_paper(image_size):
    """-2 log tan(angle), shifted by 2 log(64 / image_size), 0 at 64 pixels. The angle
    is linear from 0 to the one where the unshifted log-SNR is -15."""
    t = np.arange(1, 1001)
    angle = t / 1000 * np.arctan(np.exp(7.5))
    expected = -2 * np.log(np.tan(angle)) + 2 * np.log(64 / image_size)
    logsnr = schedules.make("shifted_cosine", 1000, image_size)(t)
    np.testing.assert_allclose(logsnr, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_published_levels_of_karras():
    """EDM's 18 noise levels, sigma 0.002..80 and rho 7."""
    levels = np.exp(-0.5 * np.asarray(schedules.make("edm", 18)(np.arange(1, 19))))
    published = [80, 57.58598, 40.78557, 28.37458, 19.35245]
    np.testing.assert_allclose(levels[:-6:-1], published, rtol=2e-7)
    np.testing.assert_allclose(levels[:2], [0.002, 0.00752802], rtol=1e-6)


def test_zero_terminal_snr_of_the_paper():
    """Lin's algorithm 1 on the linear schedule: alpha_bar just before the end, a last
    beta of 1, and an unchanged first beta."""
    betas = schedules.rescale_zero_terminal_snr(schedules.linear(1000))
    np.testing.assert_allclose(schedules.alpha_bar(betas)[998], 4.213262465e-9, 1e-9)
    assert betas[-1] == 1
    np.testing.assert_allclose(betas[0], 1e-4, rtol=1e-10)
    logsnr = schedules.make("linear", 1000, zero_terminal_snr=True)(
        np.array([999, 1000])
    )
    assert np.isfinite(logsnr[0]) and logsnr[1] == -np.inf


@hypothesis.given(betas=st.lists(st.floats(1e-4, 0.9), min_size=2, max_size=20))
@hypothesis.settings(max_examples=50, deadline=None)
def test_any_table_is_rescaled(betas):
    """For any table, the first beta is unchanged, the last is 1, the others are in
    (0, 1); rescaling is idempotent."""
    rescaled = schedules.rescale_zero_terminal_snr(np.array(betas))
    assert rescaled[-1] == 1
    assert np.all(rescaled[:-1] > 0) and np.all(rescaled[:-1] < 1)
    np.testing.assert_allclose(rescaled[0], betas[0], rtol=1e-9)
    again = schedules.rescale_zero_terminal_snr(rescaled)
    np.testing.assert_allclose(again, rescaled, rtol=1e-9)


def test_invalid_curves():
    """Rescaling a curve raises an error, and so does T < 2 for a curve or rescaling;
    the error for an unknown name lists curves too."""
    with pytest.raises(ValueError, match="'edm' is a curve.*linear"):
        schedules.make("edm", 10, zero_terminal_snr=True)
    for arguments in (("edm", 1), ("linear", 1, 64, True)):
        with pytest.raises(ValueError, match="at least 2, not 1"):
            schedules.make(*arguments)
    with pytest.raises(ValueError, match="cosine.*sigmoid.*edm"):
        schedules.make("sine", 10)


class ShapeTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_shape(self):
        """A schedule and its inverse keep the shape of their argument, with and without
        jit, for a table and a curve."""
        pairs = ("linear", jnp.int32), ("edm", jnp.float32)
        shapes = (), (2, 3)

        @self.variant
        def run():
            arrays = []
            for shape, (name, dtype) in itertools.product(shapes, pairs):
                schedule = schedules.make(name, 10)
                logsnr = schedule.logsnr(jnp.ones(shape, dtype))
                arrays.append([logsnr, schedule.time(logsnr)])
            return arrays

        expected = [shape for shape in shapes for _ in pairs]
        for shape, both in zip(expected, run(), strict=True):
            chex.assert_shape(both, shape)
