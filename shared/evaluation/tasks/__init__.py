"""What a model is asked: problems, prompts, solutions, documents."""
