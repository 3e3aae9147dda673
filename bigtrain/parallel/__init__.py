"""How ranks are arranged, and what they need to work together."""
