"""What is known of a state that is not seen: exact filters, Kalman filters, particles."""
