"""Customer.io's App API: its client, its rows, and the occurrences read from them."""
