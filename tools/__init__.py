"""What the project needs and users do not: set-up, demonstration, test data."""
