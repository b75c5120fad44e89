"""GPT as a language model: its context limits the data, not the continuation."""

import jax
import numpy as np
import pytest
from smoke import Compiled, load

from diffusion_jax import methods
from diffusion_jax.data import texts
from diffusion_jax.data.vocabulary import Vocabulary
from diffusion_jax.methods import language_model
from diffusion_jax.special_tokens import END

LETTERS = Vocabulary("characters", tuple("abcdef"))


def method_of(data_context=None, **changes):
    """A tiny GPT of six letters, on data of another context if asked."""
    config = load("shakespeare_gpt", **changes)
    length = (data_context or config.data.context) + 1
    return methods.make(config, {"tokens": texts.tokens_field(length, LETTERS)})


def test_the_context_is_that_of_the_data():
    """model.context follows data.context, also one from the command line."""
    assert load("shakespeare_gpt", "").model.context == 64
    assert load("shakespeare_gpt", data__context=5).model.context == 5
    assert method_of(data__context=5).network.context == 5


def test_longer_data_are_refused():
    """Data of a longer context than the model's are refused before compiling."""
    method = method_of(data_context=17)
    with (
        Compiled() as names,
        pytest.raises(ValueError, match="at most model.context = 16.*there are 17"),
    ):
        jax.eval_shape(method.init, jax.random.key(0))
    assert not names


@pytest.mark.parametrize("num_tokens", [1, 14, 40])
def test_continuations_may_outgrow_the_context(num_tokens):
    """A prompt is continued by as many tokens as asked for, beyond the context too."""
    method = method_of()
    batch = {
        "prompt": np.full((2, 3), END, np.int32),
        "index": np.arange(2, dtype=np.int32),
    }
    variables, _ = jax.eval_shape(method.init, jax.random.key(0))
    options = language_model.SampleOptions(num_tokens, 1.0, 0, 1.0)
    task = language_model.make_sample(method, options)
    text = jax.eval_shape(task.run, variables, batch, jax.random.key(0))["text"]
    assert text.shape == (2, 2 + num_tokens)


def test_networks_have_defaults():
    """Every network of the family has its own group model."""
    assert language_model.NETWORKS.keys() == language_model.LANGUAGE_MODELS.keys()
    for name in language_model.NETWORKS:
        assert language_model.defaults(name).model.name == name
    with pytest.raises(ValueError, match="Unknown network 'nosuch'.*recurrent, gpt"):
        language_model.defaults("nosuch")
