"""The soul dataset: records of gate, rotations and heads, from a schedule or a trained run. No torch."""
