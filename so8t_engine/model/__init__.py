"""The base model: loading, quantisation, LoRA targets, and the model with the SO8T parts attached."""
