"""Training as a step: a run of the engine in a process of its own, resumed where it broke off."""
