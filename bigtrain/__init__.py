"""Distributed pretraining of GPT and BERT models: token tars in, Hugging Face models out."""
