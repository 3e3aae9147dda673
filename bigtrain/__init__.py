"""Distributed pretraining of GPT and BERT models: token tars in, checkpoints and Hugging Face folders out."""
