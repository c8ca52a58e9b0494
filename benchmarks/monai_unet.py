"""MONAI's U-Net with the channels of our light U-Net, for the benchmarks that compare both. Needs ``monai`` and PyTorch."""

from __future__ import annotations

from typing import Any


def monai_unet() -> Any:
    """Build the network: strided convolutions, two residual units a level, single-channel images in, logits out."""
    import monai

    return monai.networks.nets.UNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    )
