# %% [markdown]
# # 3. Actor-critic, temporal differences
#
# Why wait for the end of the episode? n rewards are believed, then the critic's word stands for all the others:
#
# $$\Psi_t = r_t + \gamma r_{t+1} + \dots + \gamma^{n-1} r_{t+n-1} + \gamma^n V(s_{t+n}) - V(s_t)$$
#
# That is less noise than the whole return has, and the critic's error as a bias. An update comes every 32 steps, in
# the middle of episodes.
#
# The algorithm is [`algorithms/actor_critic_td.py`](../src/advantage/algorithms/actor_critic_td.py), its page
# [docs/actor_critic_td.md](../docs/actor_critic_td.md).

# %%
import os

import advantage
from figures import figures

STEPS = int(os.environ.get("NOTEBOOK_STEPS", "200000"))  # of each run
SHARED = {"learning_rate": 1e-3, "steps": STEPS, "seed": 0, "quiet": True}  # the rest are the algorithm's defaults

# %% [markdown]
# ## One reward, or five
#
# Advantages are normalised. The critic's targets never are: it bootstraps from its own numbers, which would mean
# something else in each batch.

# %%
runs = {
    "n = 1": advantage.train("actor_critic_td", "LunarLander-v3", n_step=1, **SHARED),
    "n = 5": advantage.train("actor_critic_td", "LunarLander-v3", n_step=5, **SHARED),
}
figures(runs)

# %% [markdown]
# There are many more updates than episodes. That is more computing on the same steps, and no efficiency by itself:
# what counts is the score against *environment steps*.

# %%
for name, run in runs.items():
    updates, finished = int(run.metrics()["update"][-1]), len(run.reader.episodes()["return"])
    print(f"{name}: {updates:,} updates, {finished:,} episodes")

# %% [markdown]
# ## Both action spaces

# %%
both = {
    "discrete": runs["n = 5"],
    "continuous": advantage.train("actor_critic_td", "LunarLander-v3", env_args={"continuous": True}, **SHARED),
}
figures(both)

# %% [markdown]
# ## What to look at
#
# - The standard deviation of Ψ for n = 1 and n = 5, and beside the returns of the first notebook.
# - The baseline: does V come to its targets, and do these move with it? They are made of V.
# - The gradient's norm: a single environment makes batches of neighbouring steps, which are much alike. The next
#   notebook has more.
