"""What acts: the sampler, rollouts as token ids, and the models that come with the project.

Nothing here encodes a message that it has decoded, or trains by reward.
"""
