"""What a run has told so far, as plain Python and numpy: no Qt in here."""
