"""The model's input and output language: prompts, answer grammar, depth tokens, traces and action tokens."""
