"""For transfer: what a simulator lacks of a real machine, around environments of every kind."""
