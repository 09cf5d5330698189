"""What language models are aligned by: preferences and their likelihood, KL terms, advantages of groups of answers."""
