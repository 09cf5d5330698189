"""What drives an agent: over compiled environments, over host environments, over data."""
