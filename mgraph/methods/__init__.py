"""Ways to connect modes: what every method is, and the methods themselves."""
