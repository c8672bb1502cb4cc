"""Five notebooks on LunarLander, from REINFORCE to PPO; see README.md beside this."""
