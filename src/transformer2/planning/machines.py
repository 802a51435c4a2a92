"""GPUs that a run may be planned for, as their makers state them."""

from typing import NamedTuple


class Machine(NamedTuple):
    """A GPU: memory in GB, dense bfloat16 operations a second, bytes a second from its memory."""

    memory: float
    flops: float
    bandwidth: float

    @property
    def compute(self) -> float:
        """Operations a second that training and prompts reach: 40 % of the peak."""
        return 0.4 * self.flops

    @property
    def reads(self) -> float:
        """Bytes a second that decoding reaches: 60 % of the peak."""
        return 0.6 * self.bandwidth


MACHINES = {
    "b200": Machine(180, 2250e12, 8.0e12),
    "h200": Machine(141, 989e12, 4.8e12),
    "h100": Machine(80, 989e12, 3.35e12),
    "h100-nvl": Machine(94, 835e12, 3.9e12),
    "h100-pcie": Machine(80, 756e12, 2.0e12),
    "a100": Machine(80, 312e12, 2.04e12),
    "a100-40gb": Machine(40, 312e12, 1.56e12),
    "l40s": Machine(48, 362e12, 0.86e12),
    "l40": Machine(48, 181e12, 0.86e12),
    "l4": Machine(24, 121e12, 0.30e12),
    "a40": Machine(48, 150e12, 0.70e12),
    "a10": Machine(24, 125e12, 0.60e12),
    "rtxpro6000": Machine(96, 504e12, 1.79e12),
    "rtx6000ada": Machine(48, 364e12, 0.96e12),
    "rtxa6000": Machine(48, 155e12, 0.77e12),
    "rtx5090": Machine(32, 210e12, 1.79e12),
    "rtx4090": Machine(24, 165e12, 1.01e12),
    "rtx3090": Machine(24, 71e12, 0.94e12),
}
"""GPUs by name: SXM modules of B200, H200, H100 and A100 where no other form is named.

Memory and bandwidth are those of NVIDIA's data sheet of each product (B200: an eighth of HGX B200's). Operations are of
the tensor cores in bfloat16, with sums in float32 and without sparsity; where a data sheet gives the rate with sparsity
alone, half of it. Those of GeForce and RTX GPUs are in NVIDIA's white papers on the architectures (GA102, Ada, RTX
Blackwell). GPUs before Ampere (V100, T4) have no bfloat16 and are left out.
"""
