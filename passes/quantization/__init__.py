"""What the quantizing passes are made of: which operators, which numbers, which graphs, and the search among them."""
