"""Rollout, rewards, advantages and loss of a training step, for three kinds of action.

*Text*: REINFORCE (paper, section 3.1) on sampled completions. Departures, each selectable back in
`TrainConfig`: groups of samples with a leave-one-out baseline instead of one sample without; λ KL
as a part of the reward instead of a sum over the vocabulary at each token, whose gradient leaves
out that a token decides which ones come after it. Both are KL(π_z ‖ π_base), as the paper writes
it; its code computes the other direction, `F.kl_div(log π_z, log π_base)` = KL(π_base ‖ π_z).
*Choices*: nothing is sampled. The policy is the softmax of the choices' scores over `temperature`,
expected reward and KL are exact sums, and a baseline would cancel. Single-token labels want a
temperature above 1: at 1 the base is sure and wrong, and its gradient vanishes.
*Given answers* are imitated (next-token loss): the paper's ablation in Table 4.
`training.loop` puts the pieces together.
"""

from collections.abc import Sequence

from t2local.adapt.answering import CHOICE, action_of, are_preferences
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel
from t2local.tasks.rows import Example
from t2local.training.choice_policies import ChoicePolicy
from t2local.training.config import NEXT_TOKEN, TrainConfig
from t2local.training.preferences import PreferencePolicy, Reference
from t2local.training.rollouts import Policy
from t2local.training.text_policies import NextTokenPolicy, TextPolicy


def policy_for(
    loaded: LoadedModel,
    svf: SVFModel,
    examples: Sequence[Example],
    reward: str,
    config: TrainConfig,
    reference: Reference | None = None,
) -> Policy:
    """The policy that fits the objective and the examples' kind of action.

    `reference`: what is known of the base model already, where whole answers are compared.
    """
    if config.objective == NEXT_TOKEN:
        return NextTokenPolicy(loaded, svf, config)
    if are_preferences(examples):
        return PreferencePolicy(loaded, svf, reward, config, reference)
    kind = ChoicePolicy if action_of(examples) == CHOICE else TextPolicy
    return kind(loaded, svf, reward, config)
