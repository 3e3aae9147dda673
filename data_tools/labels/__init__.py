"""Tables of labelled rows, and of prompts with answers: `bigtrain data label` and their format."""
