"""Ways to connect modes: the interface of a method, and the methods themselves."""
