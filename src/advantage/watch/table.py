"""The table of all tripwires. A new one is a check in a file beside this one and a row here; nothing else names it."""

from __future__ import annotations

from advantage.watch import behaviour, critic, examples, learning, sampling
from advantage.watch.tripwire import Tripwire

TRIPWIRES: tuple[Tripwire, ...] = (
    Tripwire(
        "non_finite",
        "stop",
        learning.non_finite,
        meaning="A number that the run computed is NaN or infinite. Every parameter it touches is lost from "
        "here on, so the run stops; its last checkpoint is from before.",
        advice="Begin with the first quantity named. A reward or an observation: the environment is at "
        "fault, look for divisions and for physics without bounds. A loss or a gradient: lower "
        "learning_rate and max_grad_norm, set normalize_observations and normalize_rewards.",
        advice_to_model="Begin with the first quantity named. A reward: the reward function divides by what may be 0. "
        "A loss or a gradient: lower learning_rate and max_grad_norm, and try dtype=float32.",
    ),
    Tripwire(
        "first_ratio",
        "warn",
        learning.first_ratio,
        meaning="Before the first step of an update the policy that learns is the one that acted, so the "
        "ratio of their probabilities is 1. It is not: every ratio and every clip after it is wrong "
        "by as much.",
        advice="In a network of your own look for dropout or batch norm left in training mode, observation "
        "statistics that moved between acting and learning, an action clipped before it was scored, a "
        "mask or a temperature that only one side applies.",
        advice_to_model="Look for dropout left in training mode, and for weights or adapters that changed between "
        "scoring and learning. With dtype=float32 nothing but rounding of some 1e-6 may be left.",
    ),
    Tripwire(
        "kl_runaway",
        "warn",
        learning.kl_runaway,
        meaning="An update moves the policy further than the rollout it learns from can vouch for. Returns "
        "often break off soon after.",
        advice="Lower learning_rate first, then epochs. target_kl=0.02 ends an update early; larger rollouts "
        "(num_envs, num_steps) make its steps less noisy.",
        advice_to_model="Lower learning_rate first, then epochs; larger batches (batch_size, num_generations) make "
        "the steps less noisy. rlhf has target_kl, which ends an update early.",
    ),
    Tripwire(
        "entropy_collapse",
        "warn",
        learning.entropy_collapse,
        meaning="The policy has become nearly certain of its actions before the returns show that it was "
        "worth it. It explores no more and seldom finds its way back.",
        advice="Raise ent_coef (0.01 is a usual start for discrete actions, less for continuous ones), lower "
        "learning_rate, and see whether the rewards are so large that they drown the bonus "
        "(normalize_rewards).",
        advice_to_model="Raise eps_high (0.28 in dapo) so that unlikely tokens may rise, raise temperature or beta, "
        "lower learning_rate, and read in the report what the completions have become.",
    ),
    Tripwire(
        "failing_search",
        "warn",
        learning.failing_search,
        meaning="No step along the natural gradient improves the surrogate inside the KL bound: the direction is wrong "
        "or lost in rounding. The critic goes on learning, the policy stands still.",
        advice="Raise cg_damping (0.1) or cg_iterations, allow more line_search_tries; larger rollouts (num_envs, "
        "num_steps) make the Fisher matrix less noisy. Advantages without spread leave nothing to improve.",
    ),
    Tripwire(
        "few_effective_samples",
        "warn",
        learning.few_effective_samples,
        meaning="The policy has moved so far from the one that wrote the log that a few weights decide everything: "
        "what is learnt now is what chance put under them.",
        advice="Weigh by the step alone (weights=step), lower weight_cap or learning_rate, stop earlier (best/ keeps "
        "the best policy with eval_every), or write a log with a behaviour nearer to it (behaviour=RUN).",
    ),
    Tripwire(
        "dead_gradients",
        "warn",
        learning.dead_gradients,
        meaning="The objective no longer reaches the parameters: policy and critic stay what they are, "
        "however long the run goes on.",
        advice="Look at train/advantage_std (no spread, no signal), at train/clip_fraction (near 1 every "
        "term is clipped away), at ReLU units that died of one large step, and in a network of your "
        "own at a detach() or no_grad() on the way.",
        advice_to_model="Look at reward_std (no spread, no signal), at train/clip_fraction (near 1 every term is "
        "clipped away), and at whether the pairs, or the labels, differ at all.",
    ),
    Tripwire(
        "exploding_gradients",
        "warn",
        learning.exploding_gradients,
        meaning="Gradients before clipping are orders of magnitude above this run's own past. Clipping keeps "
        "the step small, but its direction is now that of a few samples.",
        advice="Usually it is the critic: look at train/value_loss and at the size of the rewards, set "
        "normalize_rewards, lower learning_rate or vf_coef.",
        advice_to_model="Look at the size of the rewards and, with a critic, at train/value_loss; lower learning_rate "
        "or vf_coef, and see whether one example is unlike all others.",
    ),
    Tripwire(
        "flat_advantages",
        "warn",
        learning.flat_advantages,
        meaning="Every action looks as good as every other: there is nothing to learn from, and advantages "
        "normalised now would be rounding errors made large.",
        advice="See whether the reward depends on the actions at all and is ever reached. Shape it, let the "
        "policy explore more (ent_coef), collect longer rollouts (num_steps).",
        advice_to_model="See whether the reward tells completions apart at all. Take easier prompts, a warmer start by "
        "sft, a higher temperature, more prompts or completions of each.",
    ),
    Tripwire(
        "critic_explains_nothing",
        "warn",
        critic.unexplained,
        meaning="The critic predicts fresh returns worse than one constant would. Its errors are in every "
        "advantage, and the policy learns noise.",
        advice="Set normalize_observations, give the critic a network of its own (share_trunk=false) or a "
        "larger vf_coef, and ask whether the observation holds what the return depends on. Until it "
        "learns, a gae_lambda nearer 1 leans on it less.",
        advice_to_model="Give it updates of its own first (critic_warmup), a model of its own (critic=copy), or begin "
        "it as the reward model. Until it learns, a gae_lambda nearer 1 leans on it less; grpo needs no critic.",
    ),
    Tripwire(
        "critic_memorises",
        "warn",
        critic.memorising,
        meaning="The critic gets better on the data it trains on and no better on the next rollout: it learns "
        "its rollouts by heart.",
        advice="Fewer epochs, larger rollouts, a smaller critic. The falling loss is no progress; judge the "
        "critic by train/explained_variance.",
    ),
    Tripwire(
        "large_returns",
        "note",
        critic.large_returns,
        meaning="The critic's targets are far larger than the outputs it starts with. It spends its first "
        "updates growing, tanh layers may saturate on the way, and in a shared trunk its loss drowns "
        "the policy's.",
        advice="Harmless while train/explained_variance rises. If that stays near 0, set normalize_rewards; "
        "a lower gamma shrinks returns too.",
        advice_to_model="Harmless while train/explained_variance rises. If that stays near 0, weight the reward by a "
        "small number (--reward name*0.01).",
    ),
    Tripwire(
        "runaway_values",
        "warn",
        critic.runaway_values,
        meaning="The values of actions are larger than any sum of discounted rewards can be. The network learns from "
        "its own estimate of what follows, and the maximum over actions takes every error upward: estimates feed on "
        "themselves.",
        advice="Raise target_update_every or lower tau, so that the target stands still for longer; lower "
        "learning_rate; set double=true, which takes the maximum's bias away.",
    ),
    Tripwire(
        "saturated_actions",
        "warn",
        behaviour.saturated_actions,
        meaning="Nearly all actions are clipped at their bounds: the environment meets the same few actions "
        "whatever the policy samples, and nothing pulls the mean back in.",
        advice="Check the bounds and the scale of the action space (rescaling to [-1, 1] helps), lower "
        "learning_rate, begin with a smaller standard deviation.",
    ),
    Tripwire(
        "falling_returns",
        "warn",
        behaviour.falling_returns,
        meaning="The policy was far better than it is now and has not come back. Dips are ordinary; a fall "
        "this deep is usually one step too far.",
        advice="With eval_every set, best/ holds the best policy evaluated. Lower learning_rate or let it "
        "fall to 0 (lin_3e-4), set target_kl, lower epochs, and see what the other tripwires say "
        "about the same updates.",
    ),
    Tripwire(
        "groups_without_spread",
        "warn",
        sampling.groups_without_spread,
        meaning="Where all completions of a prompt earn the same, their advantages are 0 and the update learns nothing "
        "from them. The task is too hard for this model, or already solved.",
        advice="Look at the reward: near 0, take easier prompts, a warmer start by sft, or more num_generations; "
        "near its highest, take harder prompts. dapo draws such groups anew.",
    ),
    Tripwire(
        "all_cut",
        "warn",
        sampling.all_cut,
        meaning="No completion reaches its own end: the token that ends one is never sampled and so never trained, and "
        "most rewards judge half a sentence.",
        advice="Raise max_completion_length; see whether the model knows its end token (`advantage data show`).",
    ),
    Tripwire(
        "length_runaway",
        "warn",
        sampling.length_runaway,
        meaning="Completions grow without earning more: length itself is being rewarded, or wrong answers are excused "
        "by their length.",
        advice="Try dr_grpo or a token mean (dapo), a reward of length or overlong, and look at the completions.",
    ),
    Tripwire(
        "repetition",
        "warn",
        sampling.repetition,
        meaning="The model says the same again and again. Rewards that count words or patterns pay for this.",
        advice="Read completions in the report; punish repetition, raise beta, lower learning_rate.",
    ),
    Tripwire(
        "reward_failures",
        "warn",
        sampling.reward_failures,
        meaning="Completions whose reward raised or timed out are left out of the update: what is hard to judge is "
        "never learnt.",
        advice="Run the reward function on a few completions by hand; give None where it does not apply.",
    ),
    Tripwire(
        "far_from_reference",
        "warn",
        sampling.far_from_reference,
        meaning="The policy writes what its reference never would. A reward that rises here is most often being gamed.",
        advice="Raise beta or set kl_target, and watch a reward that is not trained on (--gold).",
    ),
    Tripwire(
        "chosen_falling",
        "warn",
        examples.chosen_falling,
        meaning="The margin grows because the rejected sink faster, but the chosen sink too: probability goes to texts "
        "that nobody ranked.",
        advice="Lower learning_rate, raise beta, or train sft on the chosen completions first.",
    ),
    Tripwire(
        "everything_masked",
        "warn",
        sampling.everything_masked,
        meaning="Nearly all that was sampled is left out of the update: it has no reward, or it was cut and cut "
        "completions are filtered. What little is left decides alone.",
        advice="Look at completions/unscored and completions/clipped_ratio: a reward that answers None, a limit of "
        "length that is too low (max_completion_length), or overlong_filter=false.",
    ),
    Tripwire(
        "dominant_component",
        "note",
        sampling.dominant_component,
        meaning="The total reward is one function's in all but name: what another one says is drowned, and the model "
        "will not learn it.",
        advice="Weigh them so that their spreads are of one size (--reward name*0.1), or leave the drowned one out.",
    ),
    Tripwire(
        "gold_falling",
        "warn",
        sampling.gold_falling,
        meaning="The reward that is trained on rises and the one that is only watched falls: the model has found what "
        "the reward pays for and nobody wanted.",
        advice="Take the checkpoint from before (best/), raise beta, read completions of high reward in the report, "
        "and mend the reward or train the reward model on such completions.",
    ),
    Tripwire(
        "identical_pairs",
        "warn",
        examples.identical_pairs,
        meaning="A pair whose texts are the same teaches nothing: its margin is 0 whatever the model says.",
        advice="Drop such pairs from the data, and see whether the tool that wrote it put one answer into both columns "
        "(`advantage data show` prints them).",
    ),
    Tripwire(
        "endless_answers",
        "warn",
        examples.endless_answers,
        meaning="No answer that is learnt from closes with a token that ends a turn: the model will not learn to stop, "
        "and goes on until the limit of length.",
        advice="See what ends an answer (`advantage data show FILE --model M` marks it): a chat template that writes "
        "no end token, or completion_ids that were given without one.",
    ),
    Tripwire(
        "template_drift",
        "warn",
        examples.template_drift,
        meaning="Prompts are not rendered as they were: the chat template, the tokenizer or a date that the template "
        "writes has changed, and the model reads another beginning than it was trained on.",
        advice="Compare the model's folder with what it was when the run began, and the versions in the report; begin "
        "anew rather than resume on another template.",
    ),
)
