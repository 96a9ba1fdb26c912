"""Lookup-free quantisation (Yu et al., arXiv 2310.05737, section 3): the code of a latent is the signs of its
dimensions, and its id their bits, the first dimension's the lowest. Without a lookup, codebooks may be large.

In: latents (..., d). Out: latents of ±1; two terms of the loss for each latent:

- "commitment": its squared distance to its code, the mean over dimensions, which are not bounded here;
- "entropy": E[H(q)] - H(E[q]). Each latent should be certain of its code, and all together should use all codes
  equally. q is the distribution over codes c with logits -|z - c|² / temperature, in which the bits are independent.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from fourm_engine.tokenizers.quantisers.base import COMMITMENT, ENTROPY, Quantised, Quantiser, full_precision

#: H(E[q]) is computed over groups of at most this many bits: the memory is latents x 2^bits numbers. For more bits, the
#: entropies of the groups are summed, as if the groups were independent.
GROUP_BITS = 10


class LookupFreeQuantiser(Quantiser):
    """2^`bits` codes of width `bits`."""

    loss_names = (COMMITMENT, ENTROPY)

    def __init__(self, bits: int, *, temperature: float = 1.0) -> None:
        super().__init__(1 << bits, bits)
        self.temperature = temperature
        groups = -(-bits // GROUP_BITS)
        self.groups = [list(range(bits * i // groups, bits * (i + 1) // groups)) for i in range(groups)]

    def nearest(self, z: Tensor) -> Tensor:
        shifts = torch.arange(self.dim, device=z.device)
        return ((z > 0).long() << shifts).sum(-1)

    def lookup(self, ids: Tensor) -> Tensor:
        shifts = torch.arange(self.dim, device=ids.device)
        return ((ids[..., None] >> shifts) & 1).float() * 2 - 1

    def forward(self, z: Tensor) -> Quantised:
        with full_precision(z):
            z = z.float()
            ids = self.nearest(z.detach())
            codes = self.lookup(ids)
            if self.training:
                self._count(ids)
            losses = {COMMITMENT: (z - codes).square().mean(-1), ENTROPY: self._entropy(z)}
            return Quantised(z + (codes - z).detach(), ids, losses)

    def _entropy(self, z: Tensor) -> Tensor:
        """(...), whose mean over all latents is E[H(q)] - H(E[q]), and whose gradient is the gradient of that.

        With m = E[q] over the latents of all processes, treated as a constant, Σ_c q_c log m_c is the second term: its
        mean is Σ_c m_c log m_c = -H(m), and the gradient of m_c log m_c differs from log m_c by 1, which sums to zero,
        as Σ_c q_c = 1. (Accumulated micro-batches have an m each.)"""
        logits = 4 * z / self.temperature  # of a bit: |z + 1|² - |z - 1|² = 4 z
        log_on, log_off = F.logsigmoid(logits), F.logsigmoid(-logits)
        total = -(log_on.exp() * log_on + log_off.exp() * log_off).sum(-1)
        for bits in self.groups:
            codes = torch.arange(1 << len(bits), device=z.device)
            on = (codes >> torch.arange(len(bits), device=z.device)[:, None] & 1).float()  # (bits, codes)
            q = (log_on[..., bits] @ on + log_off[..., bits] @ (1 - on)).exp()
            total = total + q @ self._mean(q.detach()).clamp(min=1e-30).log()
        return total

    def _mean(self, q: Tensor) -> Tensor:
        """(codes,), over all latents; in training over those of all processes."""
        q = q.reshape(-1, q.shape[-1])
        summed = torch.cat([q.sum(0), q.new_full((1,), len(q))])
        if self.training and dist.is_initialized():
            dist.all_reduce(summed)
        return summed[:-1] / summed[-1]
