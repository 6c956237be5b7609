"""Fine-tuning of any checkpoint on labelled demonstrations: data, examples, model, loop, validation, result."""
