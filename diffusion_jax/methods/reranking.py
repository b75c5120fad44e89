"""Reranking: the best of several samples of each caption is kept."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffusion_jax.methods.base import Batch, Task, scalar_fields
from diffusion_jax.methods.contrastive import Contrastive
from diffusion_jax.training.state import Variables

SCORER = "scorer"  # the group of the scorer's variables


def with_scorer(variables: Variables, scorer: Variables) -> Variables:
    """Adds the variables of a scorer to those of a model, as `rerank` needs them."""
    return Variables(variables.params | {SCORER: scorer.params}, variables.state)


def candidate_keys(key: Array, num: int) -> Array:
    """Derives the keys of the candidates, [num]; the first one is the key itself.

    The numbers folded in are above all indices of examples, so that no candidate's key
    is that of an example.
    """
    numbers = np.arange(1, num, dtype=np.uint32) + np.uint32(2**31)
    others = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    return jnp.concatenate([key[None], others])


def rerank(
    task: Task, image: str, scorer: Contrastive, ids: np.ndarray, num_candidates: int
) -> Task:
    """Makes a task that keeps the best of several samples of each caption.

    The best one is the most similar to the caption in the scorer's embedding. Candidate
    j of an example depends on the key, the example and j only; the first one is the
    sample that is drawn without reranking.

    Args:
      task: draws an image for each "caption" of the batch.
      image: name of the image among its outputs.
      scorer: the contrastive model; its variables are in the group "scorer".
      ids: i32[V], its ids of the words of the captions.
      num_candidates: samples per caption.

    Returns:
      The task, with the further output "score", the similarity of the one kept.

    Source: Ramesh et al. 2021, section 2.6, arXiv:2102.12092.
    """

    def run(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        caption = jnp.asarray(ids)[batch["caption"]]

        def candidate(key: Array) -> dict[str, Array]:
            drawn = task.run(variables, batch, key)
            found = scorer.embed(
                Variables(variables.params[SCORER], {}),
                jnp.clip(drawn[image], -1, 1),
                caption,
            )
            return drawn | {"score": jnp.sum(found.image * found.text, axis=1)}

        # One after the other, so that only one is being drawn in memory.
        every = lax.map(candidate, candidate_keys(key, num_candidates))
        best = jnp.argmax(every["score"], axis=0)
        choose = jax.vmap(lambda x, i: x[i], (1, 0))
        return {name: choose(x, best) for name, x in every.items()}

    return task._replace(run=run, outputs=task.outputs | scalar_fields("score"))
