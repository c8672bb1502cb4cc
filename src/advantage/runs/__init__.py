"""What a run leaves behind and what it promises: directory, database, checkpoints, named random streams, resume.

Nothing is imported here, so that `advantage.runs.directory` and `advantage.runs.reader` answer without torch.
"""
