"""What the model is asked, what it says and how to read it: prompts, grammar, depth codes, trace and action symbols."""
