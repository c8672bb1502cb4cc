# %% [markdown]
# # 1. REINFORCE
#
# The policy plays whole episodes; then each action is made more probable, or less, by what came of it:
#
# $$\nabla J = \mathbb{E}\Big[\sum_t \nabla \log \pi(a_t \mid s_t)\, \Psi_t\Big],
# \qquad \Psi_t = R(\tau) \text{ or } G_t$$
#
# The whole algorithm is [`algorithms/reinforce.py`](../src/advantage/algorithms/reinforce.py), its page
# [docs/reinforce.md](../docs/reinforce.md). The lander has four engines to fire, or two throttles to turn. The same
# file serves both, since it sees log-probabilities and no networks.

# %%
import os

import advantage
from figures import figures

STEPS = int(os.environ.get("NOTEBOOK_STEPS", "200000"))  # of each run
SHARED = {"learning_rate": 1e-3, "steps": STEPS, "seed": 0, "quiet": True}  # the rest are the algorithm's defaults

# %% [markdown]
# ## What an action is weighted by
#
# $R(\tau)$, the return of the whole episode, praises an action for what came before it too. $G_t$, the return from
# the action on, does not. Nothing is taken off either.

# %%
runs = {
    "R(τ)": advantage.train("reinforce", "LunarLander-v3", psi="trajectory", **SHARED),
    "G": advantage.train("reinforce", "LunarLander-v3", psi="reward_to_go", **SHARED),
}
figures(runs)

# %% [markdown]
# ## Probabilities of four actions, or a Gaussian of two
#
# The policy's head is all that differs. Draws of a Gaussian that lie outside the lander's bounds are clipped on their
# way to it.

# %%
both = {
    "discrete": runs["G"],
    "continuous": advantage.train("reinforce", "LunarLander-v3", env_args={"continuous": True}, **SHARED),
}
figures(both)

# %% [markdown]
# ## What to look at
#
# - Score and rolling variance: how much of the curve is luck?
# - Ψ: is its mean near 0, or is every action of a batch blamed alike? What all actions share says nothing about any
#   of them; the next notebook takes it off.
# - The loss: does it say anything about the score?
#
# One seed does not show which is better. Five do, with intervals:
#
#     advantage ladder LunarLander-v3 --story five-notebooks --seeds 5

# %%
for name, run in {**runs, "continuous": both["continuous"]}.items():
    found = run.evaluate(episodes=20)
    print(f"{name:12} {found.mean:8.1f} ± {found.std:.1f}, 20 episodes that take the most probable action")
