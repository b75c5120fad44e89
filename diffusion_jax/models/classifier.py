"""A small convolutional classifier, which also serves as a feature extractor."""

from collections.abc import Sequence

import flax.linen as nn
from jax import Array


class ConvClassifier(nn.Module):
    """Classifies images with 3x3 convolutions of stride 2 and one hidden layer.

    Attributes:
      num_classes: K; with several labels, the sum of their numbers of classes.
      channels: output channels of each convolution; each halves the resolution.
      num_features: width of the hidden layer.
    """

    num_classes: int
    channels: Sequence[int]
    num_features: int = 64

    def setup(self) -> None:
        """Creates the layers."""
        self.convolutions = [nn.Conv(c, (3, 3), strides=2) for c in self.channels]
        self.hidden = nn.Dense(self.num_features)
        self.out = nn.Dense(self.num_classes)

    def features(self, x: Array) -> Array:
        """Returns the hidden layer's activations, from which FD is computed.

        Args:
          x: [B, H, W, C].

        Returns:
          [B, num_features], nonnegative (after the ReLU).
        """
        for layer in self.convolutions:
            x = nn.relu(layer(x))
        return nn.relu(self.hidden(x.reshape(x.shape[0], -1)))

    def __call__(self, x: Array) -> Array:
        """Returns logits [B, K] for images x [B, H, W, C]."""
        return self.out(self.features(x))
