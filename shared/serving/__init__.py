"""OpenAI's HTTP interface without a model: bodies, answers, and who asks the engine."""
