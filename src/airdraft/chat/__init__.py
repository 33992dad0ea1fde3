"""A chat: several turns with one model, of which each is one text."""
