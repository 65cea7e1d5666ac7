"""The variational auto-encoder on 28x28 images, with 8 latent variables."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func.nets.images import flatten
from deepobs_func.nets.layers import Conv, ConvTranspose, Dense, Pass
from deepobs_func.nets.noise import Dropout, Epsilon

LATENT = 8
SLOPE = 0.3  # of the leaky ReLU


class VAEOutputs(NamedTuple):
    """What the VAE's loss is made of: `image (B, 784)` in (0, 1), `mean (B, 8)` and `log_std (B, 8)`."""

    image: Tensor
    mean: Tensor
    log_std: Tensor


class Encoder(nn.Module):
    """1x28x28 -> the mean and the log standard deviation of 8 latent variables."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.dropout1 = Conv(1, 64, 4, stride=2), Dropout(0.2, (64, 14, 14))
        self.conv2, self.dropout2 = Conv(64, 64, 4, stride=2), Dropout(0.2, (64, 7, 7))
        self.conv3, self.dropout3 = Conv(64, 64, 4), Dropout(0.2, (64, 7, 7))
        self.mean = Dense(7 * 7 * 64, LATENT)
        self.log_std = Dense(7 * 7 * 64, LATENT)

    def forward(self, x: Tensor, p: Pass) -> tuple[Tensor, Tensor]:
        x = self.dropout1(F.leaky_relu(self.conv1(x, p), SLOPE), p)  # (B, 64, 14, 14)
        x = self.dropout2(F.leaky_relu(self.conv2(x, p), SLOPE), p)  # (B, 64, 7, 7)
        x = flatten(self.dropout3(F.leaky_relu(self.conv3(x, p), SLOPE), p))
        return self.mean(x, p), 0.5 * self.log_std(x, p)


class Decoder(nn.Module):
    """8 latent variables -> 784 pixels in (0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.dense1 = Dense(LATENT, 24)
        self.dense2 = Dense(24, 49)
        self.deconv1, self.dropout1 = ConvTranspose(1, 64, 4, stride=2), Dropout(0.2, (64, 14, 14))
        self.deconv2, self.dropout2 = ConvTranspose(64, 64, 4), Dropout(0.2, (64, 14, 14))
        self.deconv3 = ConvTranspose(64, 64, 4)
        self.dense3 = Dense(14 * 14 * 64, 784)

    def forward(self, z: Tensor, p: Pass) -> Tensor:
        z = F.leaky_relu(self.dense2(F.leaky_relu(self.dense1(z, p), SLOPE), p), SLOPE)
        x = z.unflatten(1, (1, 7, 7))
        x = self.dropout1(torch.relu(self.deconv1(x, p)), p)  # (B, 64, 14, 14)
        x = self.dropout2(torch.relu(self.deconv2(x, p)), p)
        return torch.sigmoid(self.dense3(flatten(torch.relu(self.deconv3(x, p))), p))


class VAE(nn.Module):
    """Encoder, one sample `z = mean + epsilon exp(log_std)`, decoder. Source: `_vae.py` of DeepOBS 1.1.2."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.epsilon, self.decoder = Encoder(), Epsilon((LATENT,)), Decoder()

    def forward(self, x: Tensor, p: Pass) -> VAEOutputs:
        mean, log_std = self.encoder(x, p)
        z = mean + self.epsilon(mean, p) * torch.exp(log_std)
        return VAEOutputs(self.decoder(z, p), mean, log_std)
