"""Problems, prompts, the sandbox that programs run in, results and their intervals."""
