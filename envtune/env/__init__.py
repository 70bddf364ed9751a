"""The environment an agent acts in: protocol, episode, rewards, recovery, and its other faces.

Those are Gymnasium, verl, and domains of your own. Nothing here knows a model or torch.
"""
