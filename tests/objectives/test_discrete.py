"""Discrete latents against SciPy, finite differences and sums in NumPy."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from diffusion_jax.objectives import discrete

K, D = 5, 3


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def gumbel(*shape, seed=1):
    return np.random.default_rng(seed).gumbel(size=shape)


def test_cosine():
    """The start at step 0, the middle half way, the end at T and from there on; it
    falls all the way, steepest in the middle, by pi / 2 of a line's slope."""
    values = [
        float(discrete.cosine(jnp.int32(t), 1.0, 1 / 16, 100)) for t in range(201)
    ]
    assert values[0] == 1 and values[50] == pytest.approx((1 + 1 / 16) / 2)
    assert values[25] == pytest.approx(1 / 16 + 15 / 16 * (1 + math.sqrt(0.5)) / 2)
    np.testing.assert_allclose(values[100:], 1 / 16, rtol=1e-6)
    steps = -np.diff(values[:101])
    assert np.all(steps > 0)
    assert steps.max() == pytest.approx(15 / 16 / 100 * math.pi / 2, rel=1e-3)
    assert float(discrete.cosine(jnp.int32(0), 0.0, 6.6, 1)) == 0
    assert float(discrete.cosine(jnp.int32(1), 0.0, 6.6, 1)) == pytest.approx(6.6)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_gumbel_softmax_gradient(x64, temperature):
    """Its derivative by the logits is that of finite differences at the same noise."""
    logits, noise, weights = draw(2, K), gumbel(2, K), draw(2, K, seed=2)

    def value(logits):
        return jnp.sum(weights * discrete.gumbel_softmax(logits, noise, temperature))

    found, h = jax.grad(value)(jnp.asarray(logits)), 1e-5
    for i in np.ndindex(logits.shape):
        shift = np.zeros_like(logits)
        shift[i] = h
        expected = (value(logits + shift) - value(logits - shift)) / (2 * h)
        assert found[i] == pytest.approx(float(expected), rel=1e-6, abs=1e-9)


def test_gumbel_softmax_at_temperature_0():
    """As the temperature falls, the vector becomes one-hot at the largest l + g; at
    temperature 1 it is the softmax of l + g, and always sums to 1."""
    logits, noise = np.float32(draw(50, K)), np.float32(gumbel(50, K))
    hard = np.eye(K)[np.argmax(logits + noise, axis=1)]
    cold = discrete.gumbel_softmax(logits, noise, 1e-4)
    np.testing.assert_allclose(cold, hard, atol=1e-6)
    warm = discrete.gumbel_softmax(logits, noise, 1.0)
    np.testing.assert_allclose(
        warm, scipy.special.softmax(logits + noise, 1), rtol=1e-5
    )
    np.testing.assert_allclose(jnp.sum(warm, axis=1), np.ones(50), rtol=1e-6)


def test_largest_entry_is_a_draw():
    """The largest entry is distributed as softmax(l) at any temperature: the Gumbel-max
    trick, within 5 sigma."""
    n, logits = 20_000, draw(K)
    noise = gumbel(n, K)
    vectors = discrete.gumbel_softmax(np.tile(logits, (n, 1)), noise, 0.7)
    found = np.bincount(np.argmax(vectors, axis=1), minlength=K) / n
    p = scipy.special.softmax(logits)
    assert np.all(np.abs(found - p) < 5 * np.sqrt(p * (1 - p) / n))


def test_straight_through():
    """The value is exactly the hard one; the gradient is that of the soft one, the
    identity, and the hard one has none."""
    hard, soft = np.float32(draw(4, K)), np.float32(draw(4, K, seed=1))
    np.testing.assert_array_equal(discrete.straight_through(hard, soft), hard)
    weights = np.float32(draw(4, K, seed=2))
    value = lambda h, s: jnp.sum(weights * discrete.straight_through(h, s))  # noqa: E731
    by_hard, by_soft = jax.grad(value, (0, 1))(hard, soft)
    np.testing.assert_array_equal(by_hard, np.zeros_like(hard))
    np.testing.assert_array_equal(by_soft, weights)


@hypothesis.given(st.floats(0, 30), st.integers(0, 9))
@hypothesis.settings(deadline=None)
def test_kl_to_uniform(scale, seed):
    """log K - H(q), with SciPy's entropy, summed over the grid; never negative."""
    logits = scale * draw(2, 3, 4, K, seed=seed)
    entropy = scipy.stats.entropy(scipy.special.softmax(logits, axis=-1), axis=-1)
    found = discrete.kl_to_uniform(np.float32(logits))
    expected = (math.log(K) - entropy).sum((1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.all(found > -1e-5)


def test_kl_at_its_ends():
    """0 for equal logits, and log K for a certain code, without NaN."""
    equal = discrete.kl_to_uniform(jnp.full((1, 2, 2, K), 7.0))
    np.testing.assert_allclose(equal, [0], atol=1e-6)
    certain = jnp.zeros((1, 2, 2, K)).at[..., 1].set(1e4)
    found = discrete.kl_to_uniform(certain)
    np.testing.assert_allclose(found, [4 * math.log(K)], rtol=1e-6)
    slope = jax.grad(lambda logits: jnp.sum(discrete.kl_to_uniform(logits)))(certain)
    assert np.all(np.isfinite(slope))


def test_moving_codebook_by_hand():
    """Counts, sums and entries over several steps are those of loops in NumPy; an entry
    that nobody chooses keeps its direction."""
    decay, draws = 0.9, np.random.default_rng(3)
    embedding = draws.normal(size=(K, D))
    counts, sums = np.ones(K), embedding.copy()
    codebook = {"embedding": embedding, "counts": counts, "sums": sums}
    codebook = jax.tree.map(jnp.float32, codebook)
    for _ in range(4):
        vectors = draws.normal(size=(2, 3, 2, D))
        codes = draws.integers(0, K - 1, size=(2, 3, 2))  # never the last one
        for k in range(K):
            chosen = vectors[codes == k]
            counts[k] = decay * counts[k] + (1 - decay) * len(chosen)
            sums[k] = decay * sums[k] + (1 - decay) * chosen.sum(axis=0)
        n = counts.sum()
        smooth = (counts + 1e-5) / (n + K * 1e-5) * n
        codebook = discrete.moving_codebook(
            codebook, np.float32(vectors), codes.astype(np.int32), decay
        )
        np.testing.assert_allclose(codebook["counts"], counts, rtol=1e-5)
        np.testing.assert_allclose(codebook["sums"], sums, rtol=1e-4, atol=1e-6)
        expected = sums / smooth[:, None]
        np.testing.assert_allclose(codebook["embedding"], expected, rtol=1e-4)
    np.testing.assert_allclose(codebook["embedding"][-1], embedding[-1], rtol=1e-3)


def test_moving_codebook_finds_the_means():
    """Where the vectors of each code stay the same, its entry tends to their mean."""
    vectors = np.float32(draw(40, D))
    codes = np.arange(40, dtype=np.int32) % K
    codebook = {"counts": jnp.ones(K), "sums": jnp.zeros((K, D))}
    for _ in range(60):
        codebook = discrete.moving_codebook(codebook, vectors, codes, 0.8)
    means = [vectors[codes == k].mean(axis=0) for k in range(K)]
    np.testing.assert_allclose(codebook["embedding"], means, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(codebook["counts"], np.full(K, 8.0), rtol=1e-4)


def test_dead_codes_restart():
    """A code used less than a tenth of the mean moves to a vector of the batch, drawn
    by priority, with the mean count; two dead codes get two vectors; the others stay.
    The moved entries are what the next moving average continues from."""
    counts = np.float32([10, 0.3, 10, 0, 4.7])  # mean 5
    embedding = np.float32(draw(K, D))
    codebook = {"embedding": embedding, "counts": counts}
    codebook |= {"sums": counts[:, None] * embedding}
    vectors, priority = np.float32(draw(8, D, seed=4)), draw(8, seed=5)
    found = discrete.restart_dead_codes(codebook, vectors, priority)
    np.testing.assert_allclose(found["counts"], [10, 5, 10, 5, 4.7], rtol=1e-6)
    for k in (0, 2, 4):
        np.testing.assert_array_equal(found["embedding"][k], embedding[k])
    order = np.argsort(priority)
    for k in (1, 3):
        np.testing.assert_array_equal(found["embedding"][k], vectors[order[k]])
    np.testing.assert_allclose(
        found["sums"], found["counts"][:, None] * found["embedding"], rtol=1e-5
    )
    few = discrete.restart_dead_codes(codebook, vectors[:1], priority[:1])
    np.testing.assert_array_equal(few["embedding"][3], vectors[0])


def test_restarts_are_uniform_draws():
    """Each vector of the batch is equally likely to replace a dead code: frequencies
    over many draws of the priorities pass a chi-squared test."""
    codebook = {"counts": jnp.array([1.0, 0.0]), "embedding": jnp.zeros((2, 1))}
    codebook |= {"sums": jnp.zeros((2, 1))}
    vectors = jnp.arange(8.0)[:, None]
    priorities = jax.random.uniform(jax.random.key(0), (4000, 8))
    drawn = jax.vmap(
        lambda p: discrete.restart_dead_codes(codebook, vectors, p)["embedding"][1, 0]
    )(priorities)
    counts = np.bincount(np.asarray(drawn, int), minlength=8)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_perplexity():
    """exp of SciPy's entropy: K for equal counts, 1 for a single code."""
    counts = np.float32([3, 0, 1, 9, 2.5])
    expected = np.exp(scipy.stats.entropy(counts))
    assert float(discrete.perplexity(counts)) == pytest.approx(expected, rel=1e-5)
    assert float(discrete.perplexity(jnp.full(K, 0.2))) == pytest.approx(K)
    assert float(discrete.perplexity(jnp.array([0.0, 4.0]))) == pytest.approx(1)


def outputs(median, log_scale, n):
    return np.tile(np.float32([median, log_scale]), (n, 1))


@pytest.mark.parametrize(
    "median, log_scale", [(0.0, 0.0), (1.5, -1.0), (-2.0, 0.5), (0.3, -3.0)]
)
def test_logit_laplace_is_a_density(x64, median, log_scale):
    """It integrates to 1 over |x| < 1.25; half of it lies below its median."""
    # The substitution u = sigmoid(y) resolves both ends.
    y = median + np.linspace(-60, 60, 400_001) * math.exp(log_scale)
    x = (2 * (scipy.special.expit(y) - 0.1) / 0.8) - 1
    inside = np.abs(x) < 1.25 * (1 - 1e-12)
    x = x[inside]
    p = np.exp(
        discrete.logit_laplace_log_likelihood(
            x[:, None], np.tile([median, log_scale], (len(x), 1))
        )
    )
    assert np.trapezoid(p, x) == pytest.approx(1, abs=1e-4)
    middle = float(2 * (scipy.special.expit(median) - 0.1) / 0.8 - 1)
    below = x <= middle
    assert np.trapezoid(p[below], x[below]) == pytest.approx(0.5, abs=1e-3)


def test_logit_laplace_is_scipys():
    """Its log is that of SciPy's Laplace density of logit u plus the logs of both
    derivatives, d logit u / du and du / dx, summed over an image's values."""
    x = np.random.default_rng(0).uniform(-1, 1, (4, 2, 2, 3))
    median, log_scale = draw(4, 2, 2, 3), draw(4, 2, 2, 3, seed=1)
    u = 0.8 * (x + 1) / 2 + 0.1
    log_p = scipy.stats.laplace.logpdf(
        scipy.special.logit(u), median, np.exp(log_scale)
    )
    expected = (log_p - np.log(u * (1 - u)) + np.log(0.4)).sum((1, 2, 3))
    output = np.concatenate([median, log_scale], axis=-1)
    found = discrete.logit_laplace_log_likelihood(np.float32(x), np.float32(output))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_logit_laplace_is_bounded():
    """Pixels that are always the same cannot raise the likelihood without bound: below
    the lowest scale it stays, also at the ends of the range."""
    x = np.float32([[-1], [1]])
    median = scipy.special.logit([0.1, 0.9])
    low, lower = (
        discrete.logit_laplace_log_likelihood(
            x, np.float32([[m, log_scale] for m in median])
        )
        for log_scale in (discrete.MIN_LOG_SCALE, -80.0)
    )
    np.testing.assert_array_equal(low, lower)
    assert np.all(np.isfinite(low)) and np.all(low < 8)


def test_logit_laplace_median():
    """The paper's reconstruction: the inverse of x -> logit u of the median, in
    [-1, 1]; the scale does not matter."""
    x = np.linspace(-1, 1, 9, dtype=np.float32)
    median = scipy.special.logit(0.8 * (x + 1) / 2 + 0.1)
    output = np.stack([median, draw(9)], axis=1)
    found = discrete.LIKELIHOODS["logit_laplace"].mean(np.float32(output))
    np.testing.assert_allclose(found[:, 0], x, atol=1e-5)
    far = discrete.logit_laplace_median(np.float32([[-50, 0], [50, 0]]))
    np.testing.assert_array_equal(far, [[-1], [1]])
