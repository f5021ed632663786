"""Attacks that train in order to attack: shadow networks, relearning. Attacks on arrays lie in `scoring`."""
