"""The world of language: models, samplers, log-probabilities, data, rewards. Transformers is imported here alone."""
