# %% [markdown]
# # 2. Actor-critic, Monte Carlo
#
# What was usual is taken off: $\Psi_t = G_t - b$. A baseline that does not look at the action leaves the mean of the
# gradient as it is, and may lessen its noise. Here are two: the mean of *earlier* episodes, and a critic $V(s_t)$
# that learns what is usual in a state.
#
# The algorithm is [`algorithms/actor_critic_mc.py`](../src/advantage/algorithms/actor_critic_mc.py); what it changes
# in `reinforce.py` stands in [docs/actor_critic_mc.md](../docs/actor_critic_mc.md#what-is-new-beside-reinforce).

# %%
import os

import numpy as np

import advantage
from figures import figures

STEPS = int(os.environ.get("NOTEBOOK_STEPS", "200000"))  # of each run
SHARED = {"learning_rate": 1e-3, "steps": STEPS, "seed": 0, "quiet": True}  # the rest are the algorithm's defaults

# %% [markdown]
# ## Two baselines
#
# With the critic everything is normalised twice: the returns, to mean 0 and standard deviation 1 over the batch, so
# that the critic need not learn numbers of hundreds; then Ψ. So Ψ, the baseline and the critic's loss are in standard
# deviations where the critic is, and in the environment's rewards where the mean is. Compare their shapes, not their
# sizes.

# %%
runs = {
    "mean of earlier episodes": advantage.train("actor_critic_mc", "LunarLander-v3", baseline="running_mean", **SHARED),
    "critic": advantage.train("actor_critic_mc", "LunarLander-v3", baseline="value", **SHARED),
}
figures(runs, units="symlog")

# %% [markdown]
# How much of the returns' variance the critic foresaw:

# %%
explained = runs["critic"].metrics()["train/explained_variance"]
first, *_, last = np.array_split(explained, min(10, len(explained)))
print(f"{np.nanmean(first):.2f} in the first tenth of the run, {np.nanmean(last):.2f} in the last")

# %% [markdown]
# ## Both action spaces

# %%
both = {
    "discrete": runs["critic"],
    "continuous": advantage.train("actor_critic_mc", "LunarLander-v3", env_args={"continuous": True}, **SHARED),
}
figures(both)

# %% [markdown]
# ## What to look at
#
# - Ψ: its mean against its standard deviation, beside those of the first notebook.
# - The two baselines: does the one that knows states learn faster here? V is not the baseline of least variance, and
#   no theorem puts it before a plain mean.
# - The critic's loss near 1 means that it explains nothing yet: that is the variance of what it is taught.
