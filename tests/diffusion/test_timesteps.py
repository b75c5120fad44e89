"""Spacings against the papers' tables, and the distributions of timestep samplers."""

import collections

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook

from diffusion_jax.diffusion import schedules, time_samplers, timesteps

uniform = jax.jit(time_samplers.uniform, static_argnums=1)
DISCRETE_SPACINGS = [
    s for s in timesteps.SPACINGS if s not in timesteps.CONTINUOUS_SPACINGS
]


def discrete(spacing, num_timesteps, num_steps):
    """The timesteps of a spacing that needs only the schedule's T."""
    schedule = schedules.Schedule(None, None, num_timesteps)
    return timesteps.make(spacing, schedule, num_steps)


@pytest.mark.parametrize("spacing", DISCRETE_SPACINGS)
@hypothesis.given(num_timesteps=st.integers(1, 4000), data=st.data())
@hypothesis.settings(max_examples=100, deadline=None)
def test_discrete_timesteps(spacing, num_timesteps, data):
    """n distinct, decreasing times in 1..T, for every n up to T."""
    num_steps = data.draw(st.integers(1, num_timesteps))
    steps = discrete(spacing, num_timesteps, num_steps)
    assert steps.shape == (num_steps,) and steps.dtype == np.int32
    assert np.all(np.diff(steps) < 0)
    assert 1 <= steps.min() and steps.max() <= num_timesteps


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("num_timesteps", [1, 10, 1000])
def test_all_the_times(spacing, num_timesteps):
    """T steps visit every time: T, ..., 1."""
    steps = discrete(spacing, num_timesteps, num_timesteps)
    np.testing.assert_array_equal(steps, np.arange(num_timesteps, 0, -1))


@pytest.mark.parametrize("num_timesteps", [10, 1000, 1001, 4000])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 10])
def test_ends(num_timesteps, num_steps):
    """Leading ends at 1 and trailing starts at T; quadratic runs from 0.8 T to 1."""
    assert discrete("leading", num_timesteps, num_steps)[-1] == 1
    assert discrete("trailing", num_timesteps, num_steps)[0] == num_timesteps
    if 1 < num_steps < num_timesteps**0.5:
        steps = discrete("quadratic", num_timesteps, num_steps)
        assert steps[0] == int(0.8 * num_timesteps) + 1 and steps[-1] == 1


@pytest.mark.parametrize("num_timesteps", [10, 1000, 1001, 4000])
@pytest.mark.parametrize("num_steps", [1, 3, 7, 10])
def test_leading_as_elsewhere(num_timesteps, num_steps):
    """Diffusers' "leading", in 0..T-1, is ours minus 1."""
    ratio = num_timesteps // num_steps
    theirs = (np.arange(0, num_steps) * ratio).round()[::-1].astype(np.int64)
    ours = discrete("leading", num_timesteps, num_steps)
    np.testing.assert_array_equal(ours - 1, theirs)


@pytest.mark.parametrize(
    "spacing, published",
    [
        ("leading", [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]),
        ("trailing", [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]),
    ],
)
def test_table_of_lin(spacing, published):
    """Lin et al. 2024, table 2: T = 1000 in 10 steps."""
    np.testing.assert_array_equal(discrete(spacing, 1000, 10), published)


@pytest.mark.parametrize("num_steps", [2, 5, 10, 17])
def test_quadratic_of_ddim(num_steps):
    """tau_i = c i^2 (Song et al. 2021, D.3), the last one near 0.8 T, rounded down.

    In exact integer arithmetic: floor(0.8 T i^2 / (n - 1)^2).
    """
    i = np.arange(num_steps)[::-1]
    exact = 8 * 1000 * i**2 // (10 * (num_steps - 1) ** 2)
    np.testing.assert_array_equal(discrete("quadratic", 1000, num_steps), exact + 1)


def test_quadratic_with_many_steps():
    """Where rounded squares coincide, times are consecutive; the others are squares."""
    for num_steps in (50, 100):  # DDIM's CIFAR-10 table
        i = np.arange(num_steps)[::-1]
        squares = 8 * 1000 * i**2 // (10 * (num_steps - 1) ** 2)
        steps = discrete("quadratic", 1000, num_steps)
        apart = squares >= i
        np.testing.assert_array_equal(steps[apart], squares[apart] + 1)
        assert np.all(np.diff(steps[~apart]) == -1) and steps[-1] == 1


def test_errors(monkeypatch):
    """Unknown names, steps outside 1..T and repeated times raise errors."""
    with pytest.raises(
        ValueError, match="Unknown sample.spacing 'uniform'. Known: leading"
    ):
        discrete("uniform", 1000, 10)
    for num_steps in (0, -1, 1001):
        with pytest.raises(ValueError, match=r"sample.num_steps must lie in 1\.\.1000"):
            discrete("leading", 1000, num_steps)
    monkeypatch.setitem(timesteps.SPACINGS, "same", lambda schedule, n: np.ones(n))
    with pytest.raises(ValueError, match="twice"):
        discrete("same", 1000, 100)


# Continuous timesteps.


@hypothesis.given(
    num_steps=st.integers(2, 1000), top=st.floats(2, 12), fall=st.floats(1, 24)
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_continuous_timesteps_are_even_in_their_level(num_steps, top, fall):
    """From T to 1, evenly spaced in log-SNR, or in (sigma / alpha)^(1/7)."""
    slope = fall / 999
    schedule = schedules.Schedule(
        lambda t: top - slope * np.asarray(t),
        lambda logsnr: (top - logsnr) / slope,
        1000,
    )
    for spacing, level in (
        ("logsnr", lambda logsnr: logsnr),
        ("karras", lambda logsnr: np.exp(-0.5 * logsnr / 7)),
    ):
        steps = timesteps.make(spacing, schedule, num_steps)
        assert steps.shape == (num_steps,) and steps.dtype == np.float64
        assert steps[0] == 1000 and steps[-1] == 1 and np.all(np.diff(steps) < 0)
        steps = np.diff(level(schedule(steps)))
        np.testing.assert_allclose(steps, steps.mean(), rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["linear", "shifted_cosine"])
def test_continuous_timesteps_of_tables_and_curves(name):
    """Log-SNRs are even in float64, even if the program runs in float32."""
    schedule = schedules.make(name, 1000)
    with jax.enable_x64(False):
        steps = timesteps.make("logsnr", schedule, 20)
    steps = np.diff(schedule(steps))
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-7)
    np.testing.assert_array_equal(timesteps.make("karras", schedule, 1), [1000])


@pytest.mark.parametrize("spacing", timesteps.CONTINUOUS_SPACINGS)
def test_times_that_coincide_in_single_precision(spacing):
    """Point 20: the sigmoid curve falls to its minimum within 1e-8 of T: times that
    differ in float64 but coincide in float32 raise an error, which says that the pair
    hardly works, and whose choices work for every number of steps."""
    schedule = schedules.make("sigmoid", 1000)
    with pytest.raises(ValueError, match="hardly works.*'trailing' or 'leading'"):
        timesteps.make(spacing, schedule, 50)
    for choice in ("trailing", "leading"):
        for num_steps in (1, 2, 50, 999, 1000):
            timesteps.make(choice, schedule, num_steps)


@pytest.mark.usefixtures("x64")
def test_published_levels_of_karras_spacing():
    """On a schedule from level 0.002 to 80, 18 steps have the published levels."""
    schedule = schedules.make("edm", 500)
    levels = np.exp(-0.5 * schedule(timesteps.make("karras", schedule, 18)))
    published = [80, 57.58598, 40.78557, 28.37458, 19.35245]
    np.testing.assert_allclose(levels[:5], published, rtol=2e-7)
    np.testing.assert_allclose(levels[-2:], [0.00752802, 0.002], rtol=1e-6)


@pytest.mark.parametrize("spacing", timesteps.CONTINUOUS_SPACINGS)
def test_no_level_of_pure_noise(spacing):
    """A spacing in the noise level raises an error if that is infinite at T."""
    with pytest.raises(
        ValueError, match="sample.spacing.*pure noise.*leading, trailing or"
    ):
        timesteps.make(spacing, schedules.make("jsd", 10), 5)


# Timestep samplers.


def assert_frequencies(draws, p):
    """Chi-square of draws in 1..T: mean T - 1, variance 2 (T - 1); within 4 std."""
    counts, n = np.bincount(draws, minlength=len(p) + 1)[1:], len(draws)
    assert len(counts) == len(p)
    statistic = np.sum((counts - n * p) ** 2 / (n * p))
    assert abs(statistic - (len(p) - 1)) <= 4 * np.sqrt(2 * (len(p) - 1))


FIVE = schedules.make("linear", 5)
KEY, INDEX = jax.random.key(7), np.arange(10_000)
STATE = {  # ten losses for each of five times
    "loss": np.random.default_rng(0).exponential(np.arange(1.0, 6), (10, 5)).T,
    "count": np.full(5, 10, np.int32),
}
P = 0.999 * np.sqrt(np.mean(STATE["loss"] ** 2, axis=1))  # equation 18 of iDDPM
P = P / np.sum(P / 0.999) + 0.001 / 5


@pytest.fixture(scope="module")
def drawn():
    """Each sampler as a function of (key, index, state), with five timesteps."""
    compiled = {
        name: jax.jit(
            lambda key, index, state, s=sampler: s.sample(key, index, FIVE, state)
        )
        for name, sampler in time_samplers.TIMESTEP_SAMPLERS.items()
    }
    return lambda name, key=KEY, index=INDEX, state=STATE: map(
        np.asarray, compiled[name](key, index, state)
    )


@pytest.mark.parametrize("name", time_samplers.TIMESTEP_SAMPLERS)
def test_depends_on_key_and_index(name, drawn):
    """Permuted indices give permuted times, another key other times; they are in
    [1, T], integers if `discrete`; weights are positive, one per example."""
    t, weight = drawn(name)
    order = np.random.default_rng(0).permutation(len(INDEX))
    moved, moved_weight = drawn(name, index=INDEX[order])
    np.testing.assert_array_equal(moved, t[order])
    np.testing.assert_array_equal(moved_weight, weight[order])
    other, _ = drawn(name, key=jax.random.key(8))
    assert np.mean(other != t) > 0.5
    assert np.all(t >= 1) and np.all(t <= 5)
    assert (
        np.issubdtype(t.dtype, np.integer)
        == time_samplers.TIMESTEP_SAMPLERS[name].discrete
    )
    assert weight.shape == t.shape and np.all(weight > 0)
    if name != "second_moment":
        np.testing.assert_array_equal(weight, 1)


def test_antithetic_pairs(drawn):
    """Examples 2k and 2k + 1 are mirrored; each of the two is uniform."""
    t, _ = drawn("antithetic")
    np.testing.assert_array_equal(t[::2] + t[1::2], 6)
    assert_frequencies(t[::2], np.full(5, 0.2))


def test_second_moment_waits_for_ten_losses_of_each(drawn):
    """Uniform with weight 1 until every time has ten losses."""
    nearly = STATE | {"count": np.array([10, 10, 10, 9, 10])}
    for state in (time_samplers.TIMESTEP_SAMPLERS["second_moment"].init(5), nearly):
        t, weight = drawn("second_moment", state=state)
        assert_frequencies(t, np.full(5, 0.2))
        np.testing.assert_allclose(weight, 1, rtol=1e-6)


def test_second_moment_is_importance_sampling(drawn):
    """Times have p ~ sqrt(E L^2) (with 0.001 of uniform) and weight 1 / (T p): the
    weighted mean of any function of time is its mean over times."""
    t, weight = drawn("second_moment")
    assert_frequencies(t, P)
    np.testing.assert_allclose(weight, 1 / (5 * P[t - 1]), rtol=1e-5)
    for f in (np.arange(1.0, 6), np.array([0, 0, 1, 0, 0]), np.exp(-np.arange(5.0))):
        terms = weight * f[t - 1]
        error = terms.std() / np.sqrt(len(terms))
        assert abs(terms.mean() - f.mean()) < 4 * error


update = jax.jit(time_samplers.TIMESTEP_SAMPLERS["second_moment"].update)


@hypothesis.given(
    st.lists(st.tuples(st.integers(1, 3), st.floats(0, 9, width=32)), max_size=60)
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_state_is_a_queue_of_ten(examples):
    """The last ten losses of each time, oldest first, as in Python's deque, even if a
    time occurs several times in a batch."""
    state, queues = time_samplers.TIMESTEP_SAMPLERS["second_moment"].init(3), {}
    for start in range(0, len(examples) - 11, 12):  # batches of one shape
        t, loss = zip(*examples[start : start + 12], strict=True)
        state = update(state, jnp.array(t), jnp.array(loss))
        for time, value in zip(t, loss, strict=True):
            queues.setdefault(time, collections.deque(maxlen=10)).append(value)
    for time in (1, 2, 3):
        kept = list(queues.get(time, []))
        assert state["count"][time - 1] == len(kept)
        row = np.asarray(state["loss"][time - 1])
        np.testing.assert_array_equal(row, [0.0] * (10 - len(kept)) + kept)


def test_continuous_moments(drawn):
    """Continuous times are uniform in [1, T]: mean, variance and fourth moment."""
    t, _ = drawn("continuous")
    z, n = (t - 3) / 2, len(t)  # uniform in [-1, 1]: E z^k = 1 / (k + 1), k even
    for power, mean in ((1, 0), (2, 1 / 3), (4, 1 / 5)):
        assert abs(np.mean(z**power) - mean) < 4 * np.sqrt(1 / (2 * power + 1) / n)


def test_lognormal_moments():
    """log(sigma / alpha) is N(-1.2, 1.2^2), within the range of the schedule."""
    schedule = schedules.make("edm", 100)
    draw = jax.jit(lambda: time_samplers.lognormal(KEY, INDEX, schedule))
    z = (-0.5 * np.asarray(schedule(draw())) + 1.2) / 1.2
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
        error = np.sqrt(variance / len(z))
        assert abs(np.mean(z**power) - mean) < 4 * error


@pytest.mark.parametrize("num_timesteps", [1, 10, 1000])
def test_uniform_times(num_timesteps):
    """Draws are uniform over 1..T with both ends reached (chi-square)."""
    n = 20 * 1000
    draws = np.asarray(uniform(textbook.keys(n), num_timesteps))
    assert draws.shape == (n,) and draws.dtype == np.int32
    assert draws.min() == 1 and draws.max() == num_timesteps
    assert_frequencies(draws, np.full(num_timesteps, 1 / num_timesteps))


def test_uniform_depends_on_each_key():
    """A time depends only on its example's key."""
    keys = textbook.keys(8)
    together = uniform(keys, 1000)
    np.testing.assert_array_equal(uniform(keys[::-1], 1000), together[::-1])
