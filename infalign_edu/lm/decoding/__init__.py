"""T on a real model, from the policy to what the user sees: rank procedures, blockwise decoding, tree search.

Every decoder has `draw(policy, prompts, samples, seed=...)`, which shows independent outputs of T(pi), and `draws`
estimates inference-time win rates from them. Left out: plain beam search by likelihood, which is no differentiable T;
see `theory.sequences` for what InfAlign says of the others.
"""

from infalign_edu.lm.decoding.draws import Decoder, Draws, Judged, inference_win_rate, judge_decoders
from infalign_edu.lm.decoding.learned import LearnedValue
from infalign_edu.lm.decoding.rank import Decoded, Ranked, decode
from infalign_edu.lm.decoding.search import Blockwise, TreeSearch
from infalign_edu.lm.decoding.value import TextValue, Value

__all__ = [
    "Blockwise", "Decoded", "Decoder", "Draws", "Judged", "LearnedValue", "Ranked", "TextValue", "TreeSearch", "Value",
    "decode", "inference_win_rate", "judge_decoders",
]  # fmt: skip
