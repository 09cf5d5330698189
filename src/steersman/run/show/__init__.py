"""What a person looks at: curves, films, saliency."""
