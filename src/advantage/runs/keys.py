"""The written definition of every metric: name, unit, meaning. The names are SB3's where the meaning is equal."""

from __future__ import annotations

import re

KEYS: dict[str, tuple[str, str]] = {
    "rollout/ep_rew_mean": ("reward", "mean undiscounted return of the last 100 finished episodes"),
    "rollout/ep_len_mean": ("steps", "mean length of the last 100 finished episodes"),
    "rollout/reward_mean": ("reward", "mean reward of a step of this rollout, as the environment paid it"),
    "rollout/reward_std": ("reward", "standard deviation of the rewards of this rollout"),
    "rollout/action_saturation": ("share", "entries of continuous actions that lay outside the bounds before clipping"),
    "rollout/exploration_rate": ("share", "epsilon, the share of random actions, at the last step of this update"),
    "time/fps": ("steps/s", "environment steps of this attempt over its seconds"),
    "time/total_timesteps": ("steps", "environment steps since the start of the run, without reset rows"),
    "time/collect": ("s", "seconds of this update spent acting in the environments and scoring the steps"),
    "time/update": ("s", "seconds of this update spent on gradients"),
    "time/evaluate": ("s", "seconds of this update spent on held-out evaluation"),
    "train/approx_kl": ("nats", "k3 estimate of KL(old policy, new policy), mean over the stepped minibatches"),
    "train/clip_fraction": ("share", "probability ratios outside the clip range, mean over the stepped minibatches"),
    "train/entropy": ("nats", "mean entropy of the policy at the steps of the stepped minibatches"),
    "train/explained_variance": (
        "",
        "1 - Var(return - value) / Var(return) of fresh data; 1 perfect, 0 a constant, < 0 worse",
    ),
    "train/value_loss": ("reward^2", "mean of (value - target)^2, without the coefficient and without a half"),
    "train/stopping_kl": ("nats", "that of the minibatch whose step was refused; absent where none was"),
    "train/policy_gradient_loss": ("", "the policy's part of the loss, minimised: the negated surrogate"),
    "train/loss": ("", "the whole loss that is minimised, all its parts with their coefficients"),
    "train/learning_rate": ("", "step size of the optimiser in this update"),
    "train/gradient_norm": ("", "global L2 norm of the gradient before clipping, mean over the stepped minibatches"),
    "train/gradient_norm_max": ("", "the largest global L2 norm of a gradient before clipping in this update"),
    "train/ratio_min": ("", "the least probability ratio of this update"),
    "train/ratio_max": ("", "the greatest probability ratio of this update"),
    "train/first_ratio_error": (
        "",
        "largest |ratio - 1| of the first minibatch, before any step; beyond rounding, acting and learning disagree",
    ),
    "train/advantage_mean": ("reward", "mean advantage before normalisation"),
    "train/advantage_std": ("reward", "standard deviation of the advantages before normalisation"),
    "train/advantage_skew": ("", "skewness of the advantages before normalisation"),
    "train/value_error": ("reward", "mean |value - return| of fresh data"),
    "train/value_mean": ("reward", "mean of the values (or a baseline) at collected states; of Q, max_a Q(s, a)"),
    "train/return_mean": ("reward", "mean target of the critic (advantage + value), or of action values"),
    "train/policy_objective": ("", "the surrogate that the policy's step reached (trpo), with its entropy bonus"),
    "train/kl_divergence_loss": ("nats", "exact mean KL of the policy's step (trpo); 0 where none was accepted"),
    "train/is_line_search_success": (
        "0 or 1",
        "1 where the line search found a step that improves within the KL",
    ),
    "train/policy_gradient_norm": (
        "",
        "L2 norm of the surrogate's gradient (trpo); the critic's is the other",
    ),
    "train/effective_sample_size": ("share", "(sum w)^2 / (n sum w^2) of the importance weights, before truncation"),
    "train/truncated_weights": ("share", "importance weights that were cut off at weight_cap"),
    "train/weight_mean": ("", "mean importance weight before truncation; 1 where the log covers what the policy does"),
    "log/ep_rew_mean": ("reward", "mean undiscounted return of the log's episodes: the behaviour policy's"),
    "log/ep_len_mean": ("steps", "mean length of the log's episodes"),
    "train/td_error": ("reward", "mean |target - Q(s, a)| of the minibatches, each before its step"),
    "train/value_size": ("reward", "largest |max_a Q(s, a)| of the collected states"),
    "train/value_bound": ("reward", "largest |reward| so far over 1 - gamma: no return can be larger"),
    "train/n_updates": ("count", "optimiser steps since the start of the run"),
    "train/minibatches": ("count", "optimiser steps of this update"),
    "train/stopped_early": ("0 or 1", "1 where the KL limit ended the epochs of this update"),
    "reward": ("reward", "mean reward of the completions that have one"),
    "gold": ("reward", "mean of the reward that is watched and never trained on"),
    "reward_std": ("reward", "standard deviation (over n − 1) of the rewards in a group, mean over groups"),
    "frac_reward_zero_std": ("share", "groups whose completions all have the same reward, which teach nothing"),
    "rewards/failures": ("count", "calls of a reward function that raised or timed out"),
    "completions/mean_length": ("tokens", "mean length of the completions"),
    "completions/tokens": ("tokens", "tokens that were sampled in this update"),
    "completions/clipped_ratio": ("share", "completions that were cut at the limit of length"),
    "completions/draws": ("count", "batches of prompts that were drawn for this update"),
    "completions/unscored": ("count", "completions without a reward: none applied, or one failed"),
    "completions/repetition": ("share", "neighbouring triples of tokens that stood in their completion before"),
    "num_tokens": ("tokens", "tokens that were trained on since the start of the run"),
    "kl": ("nats", "log-ratio to the reference summed over a completion, mean over completions"),
    "kl/pairs": ("nats", "KL(reference, policy) of a completion by k3 on the pairs, where the reference wrote them"),
    "train/beta": ("reward/nat", "the price of leaving the reference, or in control the policy that collected"),
    "train/kl": ("nats", "exact KL(old policy, new policy) over the rollout, after the update"),
    "rewards/chosen": ("reward", "implicit reward of the chosen completions"),
    "rewards/rejected": ("reward", "implicit reward of the rejected completions"),
    "rewards/margins": ("reward", "how far the chosen lie above the rejected, mean"),
    "rewards/accuracies": ("share", "pairs, or labels, that are judged rightly before the step"),
    "rewards/mean": ("reward", "mean score of all texts"),
    "rewards/chosen_longer": ("share", "of pairs of unequal length: those whose chosen text is the longer one"),
    "rewards/longer_higher": ("share", "of pairs of unequal length: those whose longer text has the higher score"),
    "rewards/identical": ("share", "pairs whose chosen and rejected texts are the same"),
    "examples/ended": ("share", "answers that end in a token that ends a turn, which is then learnt"),
    "examples/template": ("", "fingerprint of how prompts are rendered; changes with the chat template"),
    "logps/chosen": ("nats", "log-probability of the chosen completions, mean of the sums"),
    "logps/rejected": ("nats", "log-probability of the rejected completions, mean of the sums"),
    "time/generate": ("s", "seconds of this update spent on sampling"),
    "time/reward": ("s", "seconds of this update spent in reward functions"),
    "time/score": ("s", "seconds of this update spent on rewards, values, log-probabilities and advantages"),
    "eval/mean_reward": (
        "reward",
        "mean undiscounted return of the held-out episodes, acting without noise; of a language model the share of "
        "held-out prompts whose greedy answer is right",
    ),
    "eval/std_reward": ("reward", "standard deviation of the returns of the held-out episodes"),
    "eval/mean_ep_length": ("steps", "mean length of the held-out episodes"),
}


OF_FUNCTIONS = {  # one for each reward function, whose name stands for {}
    "mean": ("reward", "mean of what the reward function {} gave, without its weight"),
    "share": ("share", "of the total's variance: what the reward function {} explains by itself"),
}


def definition(name: str) -> tuple[str, str]:
    """Unit and meaning of a metric; two empty texts for one that the library does not know.

    >>> definition("rewards/format/mean")
    ('reward', 'mean of what the reward function format gave, without its weight')
    """
    if named := re.fullmatch(r"rewards/(.+)/(mean|share)", name):
        unit, meaning = OF_FUNCTIONS[named[2]]
        return unit, meaning.format(named[1])
    return KEYS.get(name, ("", ""))
