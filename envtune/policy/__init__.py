"""What acts: the sampler, many episodes at once as token ids, and the models that come with the project.

Nothing here encodes a message that it has decoded, or trains by reward.
"""
