"""How weights become bytes: which survive, what they are worth, and which code each tensor takes."""
