"""Vector quantization for attention: nearest codes, their moving averages, and linear-time attention to coded keys.

After Transformer-VQ (arXiv:2309.16354): near keys are attended one by one, far keys through counts and sums per code.
"""

from seqmix.ops.vq.attention import vq_attention, vq_attention_weights
from seqmix.ops.vq.codebook import codebook, commitment_loss, nearest_code, straight_through, update_codebook
from seqmix.ops.vq.resume import VQState, init_vq_state, vq_attention_resume
from seqmix.ops.vq.scores import Kind

__all__ = [
    "Kind",
    "VQState",
    "codebook",
    "commitment_loss",
    "init_vq_state",
    "nearest_code",
    "straight_through",
    "update_codebook",
    "vq_attention",
    "vq_attention_resume",
    "vq_attention_weights",
]
