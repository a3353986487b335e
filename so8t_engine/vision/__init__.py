"""Images for a language model: a frozen encoder, a trained projector, the gate on the joined sequence."""
