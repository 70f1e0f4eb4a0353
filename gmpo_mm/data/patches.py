"""Pictures cut into patches, one byte a colour value until they are on the model's device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

LEVELS = 256
"""Values that a byte can have."""


@dataclass(frozen=True, eq=False)
class ImagePatches:
    """Patches of some pictures, with what turns their bytes into a vision tower's inputs.

    `bytes_PF` (uint8) has a row for each patch, channel by channel: F = channels x height x width of a patch.
    `table_CL` (float32) is what the image processor makes of each of the 256 levels in each channel; looking
    a value up gives the very bits that rescaling and normalising it would give, on every device. `frames` is
    how many equal frames of a still picture a patch holds (`temporal_patch_size`); one of them is stored.
    """

    bytes_PF: torch.Tensor
    table_CL: torch.Tensor
    frames: int

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.bytes_PF)

    @property
    def pixel_values(self) -> torch.Tensor:
        """The vision tower's input, see `pixel_values`, in main memory."""
        return pixel_values([self], torch.device("cpu"))


def pixel_values(patches: Sequence[ImagePatches], device: torch.device) -> torch.Tensor:
    """The vision tower's input (P, channels x frames x height x width), float32, on `device`.

    Only bytes travel to the device, and nothing is read back. All pictures are those of one image processor.
    """
    table_CL, frames = patches[0].table_CL, patches[0].frames
    assert all(p.table_CL is table_CL for p in patches), "pictures of two image processors"
    channels = len(table_CL)
    bytes_PF = _on_device([p.bytes_PF for p in patches], device)
    first_C1 = torch.arange(channels, dtype=torch.int32, device=device).mul(LEVELS).unsqueeze(1)
    places_PCF = bytes_PF.view(len(bytes_PF), channels, -1).int() + first_C1
    values = _on_device([table_CL], device).flatten().index_select(0, places_PCF.flatten())
    return values.view(len(bytes_PF), channels, 1, -1).expand(-1, -1, frames, -1).reshape(len(bytes_PF), -1)


def _on_device(parts: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """The parts, one after the other, on a device; through page-locked memory, without waiting, on a GPU."""
    rows = sum(len(part) for part in parts)
    # not pin_memory(), which PyTorch's fake tensors can't
    joined = torch.empty((rows, *parts[0].shape[1:]), dtype=parts[0].dtype, pin_memory=device.type == "cuda")
    return torch.cat(list(parts), out=joined).to(device, non_blocking=True)
