"""The mathematics of SO8T: rotations, gate, heads, losses, adapter, soul file and bake.

Nothing is imported here: `schedule` must stay usable by the window and by the estimate, which never
import torch. Import from the module that defines the name.
"""
