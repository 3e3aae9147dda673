"""Makes a tokenizer, token tars and a manifest from text. Importing it never loads torch."""
