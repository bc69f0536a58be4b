"""What is done to it for real, and what it says then."""
