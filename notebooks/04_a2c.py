# %% [markdown]
# # 4. A2C
#
# Many environments are stepped together. One gradient is averaged over different moments of different episodes, and
# advantages are normalised over all steps of all environments. λ mixes the n-step advantages; λ = 1, the default,
# takes as many rewards as the rollout has.
#
# The algorithm is [`algorithms/a2c.py`](../src/advantage/algorithms/a2c.py), its page [docs/a2c.md](../docs/a2c.md).

# %%
import os

import advantage
from figures import figures

STEPS = int(os.environ.get("NOTEBOOK_STEPS", "200000"))  # of each run
# The rest is tuned for the lander in algorithms/tuned.toml, where advantages are left as they are.
SHARED = {"normalize_advantages": True, "steps": STEPS, "seed": 0, "quiet": True}

# %% [markdown]
# ## How many environments
#
# Each contributes five steps to an update, and all runs have the same number of environment steps. So more
# environments mean fewer updates, each from more data.

# %%
runs = {
    f"{count} environments": advantage.train("a2c", "LunarLander-v3", num_envs=count, **SHARED) for count in (2, 8, 32)
}
figures(runs)

# %%
for name, run in runs.items():
    table = run.metrics()
    norm, seconds, updates = table["train/gradient_norm"], table["wall_time"][-1], int(table["update"][-1])
    print(f"{name:16} {updates:7,} updates, {seconds:6.1f} s, gradient norm {norm.mean():.2f} ± {norm.std():.2f}")

# %% [markdown]
# ## Both action spaces

# %%
both = {
    "discrete": runs["8 environments"],
    "continuous": advantage.train("a2c", "LunarLander-v3", num_envs=8, env_args={"continuous": True}, **SHARED),
}
figures(both)

# %% [markdown]
# ## What to look at
#
# - The gradient's norm and its spread, by the number of environments.
# - The score by environment steps, and the seconds that it took: they need not favour the same number.
