"""What a recorded update did: done again, done otherwise, and compared with another run's."""
