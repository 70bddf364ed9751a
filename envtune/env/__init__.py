"""The environment an agent acts in: its protocol, an episode, rewards, recovery, and its other faces (Gymnasium, verl, a domain of one's
own). Nothing here knows a model or torch."""
