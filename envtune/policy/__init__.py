"""The sampler, rollouts as token ids, and the models that come with the project.

Nothing here tokenises a message again after decoding it, and nothing trains on rewards.
"""
