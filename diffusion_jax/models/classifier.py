"""A small convolutional classifier, whose features measure other models' pictures."""

from collections.abc import Sequence

import flax.linen as nn
from jax import Array


class ConvClassifier(nn.Module):
    """Names what a picture shows; 3x3 convolutions of stride 2 and one hidden layer.

    Attributes:
      num_classes: K.
      channels: of the convolutions; each halves the size.
      num_features: width of the hidden layer.
    """

    num_classes: int
    channels: Sequence[int]
    num_features: int = 64

    def setup(self) -> None:
        """Makes the layers."""
        self.convolutions = [nn.Conv(c, (3, 3), strides=2) for c in self.channels]
        self.hidden = nn.Dense(self.num_features)
        self.out = nn.Dense(self.num_classes)

    def features(self, x: Array) -> Array:
        """Returns the hidden layer [B, num_features], not negative, of x [B, H, W, C].

        Fréchet distances are taken between these activations.
        """
        for layer in self.convolutions:
            x = nn.relu(layer(x))
        return nn.relu(self.hidden(x.reshape(x.shape[0], -1)))

    def __call__(self, x: Array) -> Array:
        """Returns logits [B, K] of x [B, H, W, C]."""
        return self.out(self.features(x))
