# %% [markdown]
# # 5. PPO
#
# A rollout is used more than once. The ratio $\rho = \pi / \pi_{\mathrm{old}}$ says how much more probable an action
# is under the policy that has moved on, and the clip takes away the reward for moving it further:
#
# $$L = \mathbb{E}\big[\min(\rho \hat A,\; \mathrm{clip}(\rho, 1 - \varepsilon, 1 + \varepsilon)\, \hat A)\big]$$
#
# The algorithm is [`algorithms/ppo.py`](../src/advantage/algorithms/ppo.py), its page [docs/ppo.md](../docs/ppo.md).

# %%
import os

import advantage
from figures import figures

STEPS = int(os.environ.get("NOTEBOOK_STEPS", "200000"))  # of each run
# The rest is tuned for the lander in algorithms/tuned.toml, for five times as many steps; a shorter run is served
# better by smaller rollouts, 16 environments of 128 steps.
SHARED = {"num_steps": 128, "steps": STEPS, "seed": 0, "quiet": True}

# %% [markdown]
# ## With the clip, and without

# %%
runs = {
    "clip": advantage.train("ppo", "LunarLander-v3", **SHARED),
    "no clip": advantage.train("ppo", "LunarLander-v3", eps_low=1e9, eps_high=1e9, **SHARED),
}
figures(runs)

# %% [markdown]
# The clip removes an incentive; it does not bound the ratio. How far ratios went in each run, and how far its updates
# moved:

# %%
for name, run in runs.items():
    table = run.metrics()
    largest, kl = table["train/ratio_max"].max(), table["train/approx_kl"].mean()
    print(f"{name:8} largest ratio {largest:8.2f}, mean KL of an update {kl:.4f} nats")

# %% [markdown]
# ## Both action spaces

# %%
both = {
    "discrete": runs["clip"],
    "continuous": advantage.train("ppo", "LunarLander-v3", env_args={"continuous": True}, **SHARED),
}
figures(both)

# %%
for name, run in both.items():
    found = run.evaluate(episodes=20)
    print(f"{name:12} {found.mean:8.1f} ± {found.std:.1f}, 20 episodes that take the most probable action")

# %% [markdown]
# ## What to look at
#
# - Score and rolling variance beside those of the other four notebooks, at the same number of environment steps.
# - The histogram: an episode of 200 points is what Gymnasium calls a solution.
# - The score is of a policy that samples its actions. Is the most probable action better, or does it hover for ever?
# - Explained variance: does the critic know the lander before the policy lands it?
#
# The same loop trains language models: [`rlhf`](../docs/rlhf.md) with a critic, [`grpo`](../docs/grpo.md) with the
# mean of a group in its place.
