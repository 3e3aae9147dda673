"""A checkpoint as a Hugging Face folder, and the proof that it is the same model."""
