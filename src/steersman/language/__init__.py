"""Language models: a decoder, its weights by their public names, tokenizers, templates, generation. All of it pure."""
